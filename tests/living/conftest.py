from tests.formats.conftest import empty_database, house, sandbox

__all__ = ["empty_database", "house", "sandbox"]
