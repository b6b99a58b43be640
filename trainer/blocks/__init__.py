"""Factorised blocks beside the towers: how they are made, and how validation chooses their settings."""
