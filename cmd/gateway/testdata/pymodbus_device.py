"""A Modbus device made with pymodbus, for the end-to-end tests.

usage: pymodbus_device.py tcp HOST PORT
       pymodbus_device.py rtu TTY BAUD

Unit 1 holds, as input and as holding registers alike, one value of every
common type, packed by Python's struct module. Holding register 100 and 101
hold a 32-bit number that is one higher at each reading of 100, so that a
reader can tell which reading a number came from. Holding 200 to 209 and coils
0 to 15 can be written.
"""
import struct
import sys

from pymodbus.datastore import ModbusServerContext, ModbusSlaveContext, ModbusSparseDataBlock
from pymodbus.server import StartSerialServer, StartTcpServer
from pymodbus.transaction import ModbusRtuFramer, ModbusSocketFramer


def words(fmt, *values):
    data = struct.pack(">" + fmt, *values)
    return [int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2)]


def swapped(regs):
    return list(reversed(regs))


REGISTERS = {
    0: words("H", 2301),
    1: words("h", -1234),
    2: words("I", 3000000000),
    4: words("i", -2000000000),
    6: words("Q", 9007199254740993),       # 2^53 + 1
    10: words("q", -9223372036854775808),
    14: words("f", 230.1),
    16: words("d", 0.1),
    20: swapped(words("f", -12.5)),        # low register first
    22: words("8s", b"METER-7\0"),
    26: [0x1234],                          # BCD
    27: [0b1001],                          # bits 0 and 3
    28: words("e", 0.5),                   # half precision
    29: [2],                               # an enum
    30: [0xFFFF],                          # a sentinel
    31: words("f", float("nan")),
    100: [0, 0],
    200: [0] * 10,
}


class Counting(ModbusSparseDataBlock):
    """Registers of which number 100 counts how often it was read."""

    count = 0

    def getValues(self, address, count=1):
        if address <= 100 < address + count:
            self.count += 1
            self.setValues(100, words("I", self.count))
        return super().getValues(address, count)


def block(kind, shift=0):
    values = {}
    for address, regs in REGISTERS.items():
        for i, reg in enumerate(regs):
            values[address + i + shift] = reg
    return kind(values)


def main():
    coils = ModbusSparseDataBlock({i: bool(i % 3 == 0) for i in range(16)})
    unit = ModbusSlaveContext(
        co=coils,
        di=ModbusSparseDataBlock({i: bool(i % 2) for i in range(16)}),
        hr=block(Counting),
        ir=block(ModbusSparseDataBlock),
        zero_mode=True,
    )
    context = ModbusServerContext(slaves={1: unit}, single=False)
    if sys.argv[1] == "tcp":
        StartTcpServer(context=context, framer=ModbusSocketFramer,
                       address=(sys.argv[2], int(sys.argv[3])), allow_reuse_address=True)
    else:
        StartSerialServer(context=context, framer=ModbusRtuFramer, port=sys.argv[2],
                          baudrate=int(sys.argv[3]), stopbits=1, bytesize=8, parity="N",
                          ignore_missing_slaves=True)


main()
