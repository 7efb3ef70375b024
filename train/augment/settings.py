"""How strong each effect is, and how often it comes; part of a recipe."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augment:
    """Strengths of all effects; a probability of 0 switches one off."""

    cut_probability: float = 0.1
    """Show only the first or last 10 to 40 % of a word; the label becomes ``unknown``."""
    trim_probability: float = 0.5
    trim_max: float = 0.2
    """Largest share of a word that is missing at its start, and half of that at its end: automatic
    editing clips soft consonants, and so does a stream that begins in the middle of a word."""
    speed_range: float = 0.15
    """Resample by a factor in 1 +- this: pitch, formants and duration move together."""
    tempo_probability: float = 0.0
    """Share of examples that are said faster or slower at the same pitch."""
    tempo_min: float = 0.8
    tempo_max: float = 1.7
    """Slowest and fastest, as a factor; in between uniform on a logarithmic scale."""
    background_probability: float = 0.5
    """Add the faint hiss or rumble of a recording, from its first to its last sample only."""
    background_min_db: float = -50.0
    background_max_db: float = -15.0
    """Power of the background relative to the clip's."""
    noise_probability: float = 0.75
    snr_min_db: float = -3.0
    snr_max_db: float = 30.0
    babble_probability: float = 0.3
    """Share of noisy examples whose noise is three other clips of the data set."""
    noise_clip_probability: float = 0.3
    """Share of noisy examples whose noise is a clip of the noise label (if there are any)."""
    silence_min_dbfs: float = -90.0
    silence_max_dbfs: float = -15.0
    """Level of the noise where there is no word."""
    filter_probability: float = 0.5
    filter_db: float = 9.0
    """Standard deviation-like range of the random equaliser, over six smooth bands."""
    tilt_probability: float = 0.7
    tilt_db: float = 6.0
    """Steepest random slope of the spectrum per octave, up or down: microphones and voices."""
    band_probability: float = 0.4
    """Share of examples that lose their highs, and share that lose their lows."""
    low_pass_min: float = 0.4
    """Lowest random upper band edge, as a share of half the sample rate."""
    high_pass_max_hz: float = 350.0
    """Highest random lower band edge."""
    reverb_probability: float = 0.3
    reverb_max_s: float = 0.4
    """Longest RT60 of the synthetic room."""
    click_probability: float = 0.3
    """Add a short burst somewhere: mouse clicks, lip smacks, the edge of an edited recording."""
    click_max_s: float = 0.012
    gain_min_db: float = -25.0
    gain_max_db: float = 8.0
    """Change of level; what exceeds full scale is clipped, as a microphone would."""
    mixup_probability: float = 0.2
    mixup_max: float = 0.4
    """Largest share of the second example."""
    warp_range: float = 0.12
    """Stretch of the mel axis in frequency by 1 +- this: another length of vocal tract."""
    mask_probability: float = 0.6
    mask_mels: int = 6
    mask_frames: int = 12
    n_masks: int = 2
