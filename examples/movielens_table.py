"""Ratings of MovieLens as a table: a task is a user, in the order of time.

  python examples/movielens_table.py --data=ml-latest-small --output=ratings.csv

writes what `python -m experiments.tables` takes. What a model could know when a
user arrives are the ratings of others: so users are divided first, and 60 of
100 are in no task. From their ratings alone come the bias of every movie and
its factors, by expectation-maximisation. The rows are those of the others.
"""

import argparse
import csv
from hashlib import sha256
from pathlib import Path

import numpy as np

FACTORS, ROUNDS, NOISE, HELD = 16, 15, 0.9, 5.0


def main(data: str, output: str, seed: int = 0, share: float = 0.6) -> dict:
  """Writes the table; returns how many users are where."""
  rated = np.genfromtxt(Path(data) / 'ratings.csv', delimiter=',', names=True)
  movies = np.unique(rated['movieId'], return_inverse=True)[1]
  users = list(set(rated['userId'].astype(int)))
  users.sort(key=lambda user: sha256(f'{seed}/{user}'.encode()).hexdigest())
  known = set(users[: round(share * len(users))])
  rows = {user: np.flatnonzero(rated['userId'] == user) for user in users}
  others = [(movies[rows[user]], rated['rating'][rows[user]]) for user in known]
  mean, bias, counts = biases(others, movies.max() + 1)
  factors = factorise(others, mean + bias)
  years, genres = described(Path(data) / 'movies.csv', rated['movieId'])
  names = ['bias', 'log_count', 'year', *genres]
  names += [f'factor_{place + 1}' for place in range(FACTORS)]
  with open(output, 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['user', 'timestamp', 'rating', *names])
    for user in users[len(known) :]:
      for row in rows[user]:
        movie = movies[row]
        about = [mean + bias[movie], np.log1p(counts[movie]), years[row]]
        about += [column[row] for column in genres.values()]
        cells = [f'{x:.5g}' for x in (*about, *factors[movie])]
        own = int(rated['timestamp'][row]), rated['rating'][row]
        writer.writerow([user, *own, *cells])
  return {'known': len(known), 'tasks': len(users) - len(known)}


def biases(others: list, number: int) -> tuple:
  """The mean, by how much movies are better, and how often they are rated."""
  mean = np.concatenate([ratings for _, ratings in others]).mean()
  bias, of_users = np.zeros(number), np.zeros(len(others))
  for _ in range(10):
    sums, counts = np.zeros(number), np.zeros(number)
    for user, (seen, ratings) in enumerate(others):
      sums[seen] += ratings - mean - of_users[user]
      counts[seen] += 1
    bias = sums / (counts + 3)
    for user, (seen, ratings) in enumerate(others):
      of_users[user] = (ratings - mean - bias[seen]).sum() / (3 + len(seen))
  return mean, bias, counts


def factorise(others: list, expected: np.ndarray) -> np.ndarray:
  """Movies as directions in which users differ, whose own are N(0, I)."""
  size = len(expected), FACTORS + 1
  factors = np.random.default_rng(0).normal(0, 0.1, size)
  factors[:, 0] = 0.35  # some users rate all of them higher
  for _ in range(ROUNDS):
    squares, products = np.zeros((*size, size[1])), np.zeros(size)
    for seen, ratings in others:
      own, left = factors[seen], ratings - expected[seen]
      spread = np.linalg.inv(np.eye(size[1]) + own.T @ own / NOISE)
      place = spread @ own.T @ left / NOISE
      second = spread + np.outer(place, place)
      squares[seen] += second
      products[seen] += np.outer(left, place) - 0.35 * second[0]
    held = squares[:, 1:, 1:] + HELD * NOISE * np.eye(FACTORS)
    factors[:, 1:] = np.linalg.solve(held, products[:, 1:, None])[..., 0]
  return factors[:, 1:]


def described(path: Path, movies: np.ndarray) -> tuple:
  """The year of the movie of every row, and whether it is of each genre."""
  with open(path, newline='', encoding='utf-8') as file:
    about = {float(row['movieId']): row for row in csv.DictReader(file)}
  of_rows = [about[movie] for movie in movies]
  digits = [row['title'].strip()[-5:-1] for row in of_rows]
  years = [int(each) if each.isdigit() else 1990 for each in digits]
  sets = [set(row['genres'].split('|')) for row in of_rows]
  genres = sorted(set().union(*sets) - {'(no genres listed)'})
  return years, {each: [int(each in own) for own in sets] for each in genres}


if __name__ == '__main__':
  parser = argparse.ArgumentParser()
  parser.add_argument('--data', required=True)
  parser.add_argument('--output', required=True)
  parser.add_argument('--seed', type=int, default=0)
  print(main(**vars(parser.parse_args())))
