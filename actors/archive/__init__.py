"""What is kept on disk, and how it is asked. SQL is in `store` and `queries` alone; whatever the disk does, live data
goes on.
"""
