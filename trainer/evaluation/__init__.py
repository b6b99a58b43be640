"""The one evaluator: exact ranks, metrics, intervals, slices, alarms and the leaderboard."""
