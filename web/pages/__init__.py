"""What people look at: the dashboard at `/` and its files below `/ui`.

Law: a page is one more client. It reads the public API that everybody reads, is given nothing of its own, and changes
nothing. It asks no other host, and its text reaches the document as text.
"""
