// Package modbus reads and writes Modbus devices over serial lines and TCP.
package modbus
