"""What is served: the page, its facts, and files, for a hive or a run on one machine."""
