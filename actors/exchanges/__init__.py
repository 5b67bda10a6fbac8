"""`exchange` says what an exchange is to the program, `catalogue` which symbols it lists; every folder is one exchange.
A folder imports no other, and nothing outside names one.
"""
