"""`streamcls send` as a program: wires source, feeder, ring and sender; signals and exit status."""

import logging
import threading

from streamcls.capture import Feeder, SourceLost, SourceOptions, parse_source
from streamcls.capture.packets import MAX_PACKET_SAMPLES
from streamcls.clock import read_utc_offset_ns
from streamcls.errors import SourceError
from streamcls.publish.wakeup import Wakeup
from streamcls.ring import Ring
from streamcls.send.sender import Sender, SendOptions
from streamcls.signals import stop_on_signals
from streamcls.types import Health, HealthState
from streamcls.units import ms_to_samples, samples_to_ms

log = logging.getLogger(__name__)


def run_send(options: SendOptions, source_options: SourceOptions) -> int:
    """Send until interrupted, or until a finite source was sent to its end.

    Returns:
        Exit status: 0, or 1 when the end of the audio could not be delivered.

    Raises:
        SourceError: The source can never work, or failed for good.
        PublishError: The endpoint is not possible.
    """
    source = parse_source(options.source, source_options)
    try:
        source.check()
    except SourceLost as error:
        log.warning("%s; trying on", error)
    wakeup = Wakeup()
    rate_hz = options.send_rate_hz
    packet_samples = ms_to_samples(options.packet_ms, rate_hz)
    if packet_samples > MAX_PACKET_SAMPLES:
        limit_ms = samples_to_ms(MAX_PACKET_SAMPLES, rate_hz)
        raise SourceError(
            f"packets of {options.packet_ms:g} ms have {packet_samples} samples at {rate_hz} Hz, "
            f"the limit is {MAX_PACKET_SAMPLES}; use at most {limit_ms:.0f} ms"
        )
    buffer_samples = max(round(options.buffer_s * rate_hz), 2 * packet_samples)
    ring = Ring(buffer_samples, rate_hz, wakeup.ring, utc_offset_ns=read_utc_offset_ns)

    def tell(health: Health) -> None:
        wakeup.ring()
        serious = health.state in (HealthState.LOST, HealthState.RECOVERING, HealthState.FAILED)
        log.log(logging.WARNING if serious else logging.INFO, "%s: %s", health.state, health.reason)

    feeder = Feeder(options.stream, source, ring, options.channel, tell)
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        wakeup.ring()

    sender = Sender(options, feeder, ring, wakeup)
    try:
        with stop_on_signals(stop):
            feeder.start()
            stopper = threading.Thread(target=_stop_feeder, args=(stopping, feeder), daemon=True)
            stopper.start()
            delivered = sender.run(stopping)
    finally:
        feeder.stop(1.0)
        sender.close()
        wakeup.close()
    dropped = feeder.health().dropped_samples
    log.info(
        "sent %d packets with %d samples, %d dropped, %d connections",
        sender.packets,
        sender.sent_samples,
        dropped,
        sender.connections,
    )
    if feeder.state is HealthState.FAILED:
        raise SourceError(feeder.reason)
    if not delivered:
        log.warning("%d samples could not be delivered", sender.undelivered_samples)
    return 0 if delivered else 1


def _stop_feeder(stopping: threading.Event, feeder: Feeder) -> None:
    stopping.wait()
    feeder.stop()
