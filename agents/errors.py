"""The root of every error that the SDK raises."""


class OtpdError(Exception):
    """Something that otpd says; catch this to catch them all."""
