"""One thread for the toys: two threads wait for each other longer than they compute, five times as long on a
busy machine. Runs in processes of their own say what they want; their threads sleep while they wait."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
