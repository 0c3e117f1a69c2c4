"""For which support sets a server is ready."""

from experiments import serve


def manifest(*sizes, outputs):
  return {
    'programs': [{'examples': each} for each in sizes], 'outputs': outputs
  }  # fmt: skip


def test_programs_are_for_the_shots_or_for_what_the_export_is_for():
  usual, three = serve.Settings().shots, {'classes': 3}
  assert serve.supports_of(manifest(None, outputs=three), usual) == (3, 15)
  assert serve.supports_of(manifest(None, outputs={}), (10,)) == (10,)
  # Of what takes some numbers alone, the usual shots are these.
  assert serve.supports_of(manifest(9, 6, outputs=three), usual) == (6, 9)
  assert serve.supports_of(manifest(9, outputs=three), (2,)) == (6,)
