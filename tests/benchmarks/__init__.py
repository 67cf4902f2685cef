"""This project and vision-agents' own Runner, side by side in one run: ``python -m tests.benchmarks``."""
