"""How good an answer is: the ways to score one, and what many scores say together."""
