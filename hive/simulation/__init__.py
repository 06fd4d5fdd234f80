"""What `simulate.py` is made of: virtual time, links, tasks, and faults drawn from a seed."""
