"""A client for a served recommender. It imports neither TensorFlow nor `trainer`, and starts in a blink.

from serving.client import Recommender

with Recommender("http://127.0.0.1:8501") as recommender:
    for item_id, score in recommender.recommend("42", k=5, exclude=["1", "2"]):
        print(item_id, score)
"""

from serving.client.arms import Arms
from serving.client.calls import (
    Call,
    Explanation,
    InputSpec,
    Outputs,
    Recommendation,
    Recommendations,
    SimilarUser,
    Transport,
    VersionStatus,
)
from serving.client.context import Context
from serving.client.errors import (
    BadRequest,
    BadResponse,
    ClientClosed,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    RecommenderError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UntrustedServer,
)
from serving.client.fake import FakeTransport
from serving.client.recommender import AsyncRecommender, Recommender

__all__ = [
    "Arms",
    "AsyncRecommender",
    "BadRequest",
    "BadResponse",
    "Call",
    "ClientClosed",
    "ConnectionFailed",
    "Context",
    "DeadlineExceeded",
    "Explanation",
    "FakeTransport",
    "InputSpec",
    "InvalidArgument",
    "NotFound",
    "Outputs",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "RecommenderError",
    "ServerError",
    "SimilarUser",
    "TooManyRequests",
    "Transport",
    "Unauthorized",
    "Unavailable",
    "UntrustedServer",
    "VersionStatus",
]
