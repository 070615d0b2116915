"""Features: the bag of all tile features of one slide, on disk and in memory."""

from histgen_lib.bags.bag import Bag, Maker, maker_of
from histgen_lib.bags.files import pack_bag, read_bag, read_maker, unpack_bag, write_bag

__all__ = ["Bag", "Maker", "maker_of", "pack_bag", "read_bag", "read_maker", "unpack_bag", "write_bag"]
