"""What a teacher said of the targets of packed rows, at the places of these.

B: rows of a batch; T: sequence length; X: tokens of a place; S: targets of an example.
"""

from collections.abc import Sequence

import numpy as np

from jaxsft.data.conversation import TeacherTargets


def teacher_rows(
    taught: Sequence[TeacherTargets], weights_BT: np.ndarray, top_k: int
) -> dict[str, np.ndarray]:
    """`teacher_ids_BTX` and `teacher_logprobs_BTX` of a batch, X being top_k.

    Two targets, of which the teacher named 7 and 4, and 5 alone, in a row of 4:

        weights    0        2        1       0     of the targets
        ids        -1 -1    7 4      5 -1    -1 -1
        logprobs   0 0      -.3 -2   -.1 0   0 0

    Args:
        taught: of the rows' examples from left to right; what is less likely than the top_k of a
            target is left out.
        weights_BT: of the targets, not 0 where one has a weight.
    """
    ids = np.full((weights_BT.size, top_k), -1, np.int32)
    logprobs = np.zeros((weights_BT.size, top_k), np.float32)
    places = np.flatnonzero(weights_BT)
    at = 0
    for one in taught:
        here = places[at : at + len(one.ids_SX)]
        width = min(one.ids_SX.shape[1], top_k)
        ids[here, :width] = one.ids_SX[:, :width]  # the likeliest stand first
        logprobs[here, :width] = one.logprobs_SX[:, :width]
        at += len(one.ids_SX)
    assert at == len(places), f"a teacher's words of {at} targets, but there are {len(places)}"
    shape = (*weights_BT.shape, top_k)
    return {"teacher_ids_BTX": ids.reshape(shape), "teacher_logprobs_BTX": logprobs.reshape(shape)}
