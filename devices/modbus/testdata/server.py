"""Serves registers whose values tell where they are: tcp, or rtu PATH BAUD.

Prints one line, with the port number for tcp, when it is ready.
"""
import asyncio
import sys

from pymodbus.datastore import (ModbusSequentialDataBlock, ModbusServerContext,
                                ModbusSlaveContext)
from pymodbus.framer.rtu_framer import ModbusRtuFramer
from pymodbus.server.async_io import ModbusSerialServer, ModbusTcpServer


def block(unit, table):
    if table < 3:
        return ModbusSequentialDataBlock(0, [(a * 7 // 3 + unit) & 1 for a in range(300)])
    return ModbusSequentialDataBlock(0, [a ^ unit << 8 ^ table << 13 for a in range(300)])


def unit(n):
    return ModbusSlaveContext(co=block(n, 1), di=block(n, 2), ir=block(n, 3),
                              hr=block(n, 4), zero_mode=True)


async def main():
    context = ModbusServerContext(slaves={n: unit(n) for n in (1, 2)}, single=False)
    if sys.argv[1] == "tcp":
        server = ModbusTcpServer(context, address=("127.0.0.1", 0))
        task = asyncio.create_task(server.serve_forever())
        await server.serving
        print(server.server.sockets[0].getsockname()[1], flush=True)
        await task
    server = ModbusSerialServer(context, framer=ModbusRtuFramer, port=sys.argv[2],
                                baudrate=int(sys.argv[3]), ignore_missing_slaves=True)
    await server.start()
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
