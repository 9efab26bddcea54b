/* Serves registers whose values tell where they are, with libmodbus.
 *
 * tcp, or rtu PATH BAUD UNIT. Prints one line, with the port number of a
 * socket, when it is ready. On TCP there are units 1 and 2. */
#include <arpa/inet.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENTRIES = 300 };

static modbus_mapping_t *unit(int n)
{
	modbus_mapping_t *m = modbus_mapping_new(ENTRIES, ENTRIES, ENTRIES, ENTRIES);
	if (m == NULL)
		exit(1);
	for (int a = 0; a < ENTRIES; a++) {
		m->tab_bits[a] = m->tab_input_bits[a] = (a * 7 / 3 + n) & 1;
		m->tab_input_registers[a] = a ^ n << 8 ^ 3 << 13;
		m->tab_registers[a] = a ^ n << 8 ^ 4 << 13;
	}
	return m;
}

/* serve answers until the connection is gone. */
static void serve(modbus_t *ctx, modbus_mapping_t **units)
{
	uint8_t query[MODBUS_MAX_ADU_LENGTH];
	int head = modbus_get_header_length(ctx);
	for (;;) {
		int n = modbus_receive(ctx, query);
		if (n < 0)
			return;
		int id = query[head - 1];
		if (n > 0 && (id == 1 || id == 2))
			modbus_reply(ctx, query, n, units[id]);
	}
}

int main(int argc, char **argv)
{
	modbus_mapping_t *units[] = {NULL, unit(1), unit(2)};
	if (argc == 5 && strcmp(argv[1], "rtu") == 0) {
		modbus_t *ctx = modbus_new_rtu(argv[2], atoi(argv[3]), 'N', 8, 1);
		if (ctx == NULL || modbus_set_slave(ctx, atoi(argv[4])) < 0 || modbus_connect(ctx) < 0)
			return 1;
		puts("ready");
		fflush(stdout);
		for (;;)
			serve(ctx, units);
	}
	modbus_t *ctx = modbus_new_tcp("127.0.0.1", 0);
	int s = ctx == NULL ? -1 : modbus_tcp_listen(ctx, 1);
	struct sockaddr_in addr;
	socklen_t size = sizeof addr;
	if (s < 0 || getsockname(s, (struct sockaddr *)&addr, &size) < 0)
		return 1;
	printf("%d\n", ntohs(addr.sin_port));
	fflush(stdout);
	while (modbus_tcp_accept(ctx, &s) >= 0) {
		serve(ctx, units);
		modbus_close(ctx);
	}
	return 1;
}
