import inspect
import tempfile

import pytest
import tensorflow as tf

from trainer.data.request_names import ALONE, WISHED, beside_wishes, fits_request
from trainer.export.serving_model import ServingModel


def test_the_inputs_are_those_of_the_signatures():
    for signature, names in (
        (ServingModel.recommend_in_context, ALONE),
        (ServingModel.recommend_with, WISHED),
    ):
        assert set(inspect.signature(signature).parameters) - {"self", "context"} == set(names)


def taken(*names):
    """Whether TensorFlow saves signatures with these context columns."""

    def trace(function, **specs):
        named = {name: tf.TensorSpec([None], tf.string, name=name) for name in specs}
        return tf.function(function, autograph=False).get_concrete_function(**named)

    class Model(tf.Module):
        def answer(self, user_id, **others):
            return {"answer": user_id}

    model = Model()
    try:
        saved = {
            "alone": trace(model.answer, **dict.fromkeys(ALONE), **dict.fromkeys(names)),
            "wished": trace(
                model.answer, **dict.fromkeys(WISHED), **dict.fromkeys(map(beside_wishes, names))
            ),
        }
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(model, folder, signatures=saved)
    except (TypeError, ValueError, IndexError):
        return False
    return True


@pytest.mark.parametrize(
    "names",
    [
        *(["device-type"], ["device/type"], ["device.type"], ["1st"], ["history"], ["category"], ["a>"]),
        *(["a", "a/b"], ["context_history"], ["item_id"], ["HourOfDay"], ["match"]),
        *(["Hour of day"], ["größe"], [""], ["k"], ["exclude"], ["user id"], ["user-id"], ["User_ID"], ["K"]),
        *(["_x"], ["a/"], ["a:b"], ["class"], ["None"], ["self"], ["History"], ["A", "a"], ["a-b", "a_b"]),
        ["1", "arg_1"],
    ],
)
def test_what_fits_is_what_tensorflow_takes(names):
    assert all(fits_request(name, names[:n]) for n, name in enumerate(names)) == taken(*names)


def test_two_columns_are_not_one_input_beside_wishes():
    assert not fits_request("context_history", ["history"])
    assert not fits_request("history", ["context_history"])
