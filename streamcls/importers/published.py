"""Where models are published that can be pulled: known here without loading JAX."""

from streamcls.importers.download import RemoteFile

YAMNET_URL = (
    "https://raw.githubusercontent.com/google-coral/coralmicro/"
    "c9f665b0a8b973d35cb9d383b3e92e9f14b4dd72/models"
)
YAMNET_FILE = "yamnet_spectra_in.tflite"


def published_yamnet(base_url: str = YAMNET_URL) -> RemoteFile:
    """Return YAMNet's file as it is published, or as a mirror below ``base_url`` has it."""
    return RemoteFile(
        url=f"{base_url.rstrip('/')}/{YAMNET_FILE}",
        size_bytes=4_047_424,
        sha256="0a266465c46718f3fcc4137366be82882a8c93bfcc4f0278581a11d11dddcdf9",
    )
