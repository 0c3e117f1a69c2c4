"""Clients of a bank as a table: a task is a segment, a target whether they pay.

  python examples/credit_table.py --data=credit_default.csv --output=clients.csv

writes what `python -m experiments.tables --target_type=classes` takes, of the
30,000 clients of Yeh and Lien (2009). A segment is of one education, marital
status, band of age and band of limits: whoever opens a new one knows what
clients of others have done, and few of its own. Segments of fewer rows than
asked for are left out, and counted. What a model could know is what stands in
the files of the bank in the month before: its row number is no feature, and
nothing is computed over clients, so nothing of a test segment is in another.
"""

import argparse
import csv
from collections import Counter

import numpy as np

AGES = 27, 31, 36, 43
LIMITS = 60_000, 180_000
MONTHS = range(1, 7)


def main(data: str, output: str, least: int = 250) -> dict:
  """Writes the table; returns how many clients are in how many segments."""
  clients = np.genfromtxt(data, delimiter=',', names=True)
  segments = segments_of(clients)
  sizes = Counter(segments)
  columns = features(clients)
  target = clients['DID_DEFAULT_PAYMENT']
  kept = 0
  with open(output, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['segment', *columns, 'default'])
    for row, segment in enumerate(segments):
      if sizes[segment] < least:
        continue
      cells = [f'{column[row]:.5g}' for column in columns.values()]
      writer.writerow([segment, *cells, int(target[row])])
      kept += 1
  return {
    'segments': sum(size >= least for size in sizes.values()),
    'clients': kept,
    'left_out': len(segments) - kept,
  }


def segments_of(clients: np.ndarray) -> list[str]:
  """The segment of every client."""
  ages = np.digitize(clients['AGE'], AGES)
  limits = np.digitize(clients['CREDIT_LIMIT'], LIMITS)
  named = zip(
    clients['EDUCATION'].astype(int),
    clients['MARITALSTATUS'].astype(int),
    ages,
    limits,
    strict=True,
  )
  return ['education{}_status{}_age{}_limit{}'.format(*x) for x in named]


def features(clients: np.ndarray) -> dict[str, np.ndarray]:
  """Columns without long tails: amounts as logarithms, and shares of limits."""
  limit = clients['CREDIT_LIMIT']
  found = {
    'log_limit': np.log(limit),
    'age': clients['AGE'],
    'sex': clients['SEX'],
    'education': clients['EDUCATION'],
    'status': clients['MARITALSTATUS'],
  }
  for month in MONTHS:
    delay = clients[f'PAYMENTDELAY_{month}']
    bill = clients[f'BILL_AMT{month}']
    paid = clients[f'PAID_AMT{month}']
    found[f'months_late_{month}'] = np.maximum(delay, 0)
    found[f'late_{month}'] = delay > 0
    found[f'used_{month}'] = np.clip(bill / limit, -1, 2)
    found[f'log_bill_{month}'] = np.sign(bill) * np.log1p(np.abs(bill))
    found[f'log_paid_{month}'] = np.log1p(paid)
  return found


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--data', required=True)
  parser.add_argument('--output', required=True)
  parser.add_argument(
    '--least', type=int, default=300, help='rows of a segment'
  )
  print(main(**vars(parser.parse_args())))
