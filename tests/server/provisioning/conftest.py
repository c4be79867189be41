"""Provisioning is tested as an ordinary user's, whoever runs the tests."""

from tests.support.small_deployment import one_user

__all__ = ["one_user"]
