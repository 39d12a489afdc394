"""What a run shows of itself: the page, its figures, its last words."""
