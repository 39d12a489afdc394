"""Whether a text goes round in circles."""

_TIMES = 4  # that a stretch stands at the end one after the other
_SHORTEST = 24  # characters of all of them: "ha ha ha ha" and "======" are no circle
_LONGEST_STRETCH = 400  # characters


def says_the_same_again(text: str) -> bool:
    """Whether it ends with one stretch, four times or more; a last one may be cut.

    `"a, b, b, b, b, "` with longer words: True.
    """
    end = text.rstrip()
    for length in range(2, min(_LONGEST_STRETCH, len(end) // _TIMES) + 1):
        tail = end[-max(length * _TIMES, _SHORTEST) :]
        if len(tail) < _SHORTEST:
            continue
        # Of a text with this period each character is that of one period before.
        if tail[length:] == tail[:-length] and len(set(tail[:length])) > 3:
            return True
    return False
