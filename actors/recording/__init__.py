"""What stands between the daemon and the exchanges: it writes down what passes, and plays it back."""
