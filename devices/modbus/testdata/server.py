"""Serves registers whose values tell where they are.

tcp, udp, tls CERT KEY, rtu PATH BAUD or ascii PATH BAUD. Prints one line,
with the port number of a socket, when it is ready.
"""
import asyncio
import sys

from pymodbus.datastore import (ModbusSequentialDataBlock, ModbusServerContext,
                                ModbusSlaveContext)
from pymodbus.device import ModbusDeviceIdentification
from pymodbus.framer.ascii_framer import ModbusAsciiFramer
from pymodbus.framer.rtu_framer import ModbusRtuFramer
from pymodbus.framer.socket_framer import ModbusSocketFramer
from pymodbus.server.async_io import (ModbusSerialServer, ModbusTcpServer,
                                      ModbusTlsServer, ModbusUdpServer)


def block(unit, table):
    if table < 3:
        return ModbusSequentialDataBlock(0, [(a * 7 // 3 + unit) & 1 for a in range(300)])
    return ModbusSequentialDataBlock(0, [a ^ unit << 8 ^ table << 13 for a in range(300)])


def unit(n):
    return ModbusSlaveContext(co=block(n, 1), di=block(n, 2), ir=block(n, 3),
                              hr=block(n, 4), zero_mode=True)


async def main():
    context = ModbusServerContext(slaves={n: unit(n) for n in (1, 2)}, single=False)
    identity = ModbusDeviceIdentification(info={0: "Maker", 1: "M-1", 2: "2.0", 4: "Meter"})
    if sys.argv[1] == "tcp":
        server = ModbusTcpServer(context, identity=identity, address=("127.0.0.1", 0))
        task = asyncio.create_task(server.serve_forever())
        await server.serving
        print(server.server.sockets[0].getsockname()[1], flush=True)
        await task
    if sys.argv[1] == "tls":  # its own TLS framer leaves out the header
        server = ModbusTlsServer(context, identity=identity, framer=ModbusSocketFramer, address=("127.0.0.1", 0),
                                 certfile=sys.argv[2], keyfile=sys.argv[3])
        task = asyncio.create_task(server.serve_forever())
        await server.serving
        print(server.server.sockets[0].getsockname()[1], flush=True)
        await task
    if sys.argv[1] == "udp":
        server = ModbusUdpServer(context, identity=identity, address=("127.0.0.1", 0))
        task = asyncio.create_task(server.serve_forever())
        await server.serving
        print(server.protocol.get_extra_info("sockname")[1], flush=True)
        await task
    framer = {"rtu": ModbusRtuFramer, "ascii": ModbusAsciiFramer}[sys.argv[1]]
    server = ModbusSerialServer(context, identity=identity, framer=framer, port=sys.argv[2],
                                baudrate=int(sys.argv[3]), ignore_missing_slaves=True)
    await server.start()
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
