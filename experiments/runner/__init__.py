"""What the experiments share: settings, the loop, the workdir, the report."""

__all__ = [
  'baselines',
  'cache',
  'child',
  'cluster',
  'common',
  'dry_run',
  'errors',
  'experiment',
  'flags',
  'interrupts',
  'loop',
  'networks',
  'problem',
  'report',
  'runs',
  'settings',
  'tables',
  'training',
  'workdir',
]
