"""The training side of the template: interactions in, a measured and exported bundle out.

TensorFlow Recommenders needs Keras 2, and the choice must be made before TensorFlow is first imported,
which is why it is made here and nothing else is.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # not the lines about GPUs that are not there
