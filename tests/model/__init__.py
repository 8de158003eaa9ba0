"""alf's own code under a scheduler that chooses who goes on: random schedules, with accidents.

``schedules`` makes and judges one schedule; ``python -m tests.model`` runs a million of them.
"""
