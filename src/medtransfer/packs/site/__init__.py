"""Packs -> a leaderboard: one folder of pages that open from a disk, without a server and without a network."""
