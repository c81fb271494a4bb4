"""What a prediction's late label says of it, as SQL over the payload log: one number a prediction.

    accuracy         1 where the label is the predicted one, else 0
    log_loss         -ln of the probability that the model gave to the true class, clipped (binary only)
    brier            square of one minus that probability (binary only; Brier 1950)
    absolute_error   distance of the predicted value from the true one
    squared_error    its square

In the SQL, `prediction` and `label` are JSON scalars, `score` and `probability` the columns of the payload log.
"""

from typing import NamedTuple

LOG_LOSS_CLIP = 1e-6
"""No probability counts as smaller: one sure mistake costs at most 13.8, which keeps means of some hundreds apart."""


class Loss(NamedTuple):
    """One metric of labelled predictions."""

    value: str
    """SQL: the number."""
    needs: str
    """SQL: whether the row has what the number needs."""
    lacks: str
    """Said of rows that do not."""
    higher_is_better: bool = False


def json_text(scalar: str) -> str:
    """SQL: a JSON scalar as its bare text."""
    return f"(CAST({scalar} AS JSON) ->> '$')"


def json_number(scalar: str) -> str:
    """SQL: a JSON number or boolean as a double; null for texts, for what a person calls 007 is no 7."""
    return (
        f"CASE WHEN {scalar} = 'true' THEN 1.0 WHEN {scalar} = 'false' THEN 0.0 "
        f"WHEN left({scalar}, 1) <> '\"' THEN TRY_CAST({scalar} AS DOUBLE) END"
    )


def same(left: str, right: str) -> str:
    """SQL: whether two JSON scalars name one class: equal as numbers (true is 1, 1.0 is 1), or equal as texts."""
    numbers = f"({json_number(left)}) = ({json_number(right)})"
    return f"(coalesce({numbers}, false) OR {json_text(left)} = {json_text(right)})"


_SAME = same("prediction", "label")
# The label is the class of the largest probability, so the predicted class of a binary model has at least a half.
_TRUE_PROBABILITY = f"CASE WHEN {_SAME} THEN greatest(score, 1 - score) ELSE least(score, 1 - score) END"
# In a binary model both are the second class's probability. In a multiclass one the score is the class's number, and
# nothing is known of the classes that were not predicted.
_BINARY = "coalesce(score BETWEEN 0 AND 1 AND abs(probability - score) < 1e-6, false)"
_NO_BINARY = "come from a model that is not binary, or gives no probabilities"
_DISTANCE = f"abs(({json_number('prediction')}) - ({json_number('label')}))"
_NUMBERS = f"({json_number('prediction')}) IS NOT NULL AND ({json_number('label')}) IS NOT NULL"
_NO_NUMBERS = "have a prediction or a label that is no number"

LOSSES: dict[str, Loss] = {
    "accuracy": Loss(f"CAST({_SAME} AS DOUBLE)", "true", "", higher_is_better=True),
    "log_loss": Loss(f"-ln(greatest({_TRUE_PROBABILITY}, {LOG_LOSS_CLIP}))", _BINARY, _NO_BINARY),
    "brier": Loss(f"pow(1 - ({_TRUE_PROBABILITY}), 2)", _BINARY, _NO_BINARY),
    "absolute_error": Loss(_DISTANCE, _NUMBERS, _NO_NUMBERS),
    "squared_error": Loss(f"pow({_DISTANCE}, 2)", _NUMBERS, _NO_NUMBERS),
}
"""The metrics that follow from labels."""
