"""What the pages of docs/ are written from."""
