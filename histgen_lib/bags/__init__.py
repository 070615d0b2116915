"""Features: the bag of all tile features of one slide, on disk and in memory."""

from histgen_lib.bags.bag import Bag
from histgen_lib.bags.files import pack_bag, read_bag, unpack_bag, write_bag

__all__ = ["Bag", "pack_bag", "read_bag", "unpack_bag", "write_bag"]
