"""What runs, and what it says. Folders hold one concept each; the files beside them are the words that all of them use
(`events`, `errors`, `clock`, `broadcast`) and the two actors above them all (`connector`, `spikes`).
"""
