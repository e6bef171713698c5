"""What was paid for, by whom, and that nothing is paid twice."""

from gace_platform.ledger.keys import label_key, settings_hash, with_charge_and_spin
from gace_platform.ledger.store import LabelRecord, LabelStore

__all__ = ["LabelRecord", "LabelStore", "label_key", "settings_hash", "with_charge_and_spin"]
