"""What is said, and how: nothing in it moves a cursor, shows a secret or stops the program."""
