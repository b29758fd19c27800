"""What holds whatever comes first: the real runner's threads take turns, in orders that are drawn.

python -m tests.interleaving nights 10000                  nights of the deterministic scheduler
python -m tests.interleaving chaos --minutes 30 --seed 1   real processes, disturbed at random
"""
