package modbus

import (
	"bytes"
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"edgegateway/devices/serial"
)

func TestServe(t *testing.T) {
	for _, tt := range []struct{ name, req, want string }{
		{"nothing", "", ""},
		{"holding", "\x03\x00\x64\x00\x02", "\x03\x04\x81\x64\x81\x65"},
		{"coils", "\x01\x00\x00\x00\x09", ""}, // against valueAt below
		{"count 0", "\x03\x00\x00\x00\x00", "\x83\x03"},
		{"126 registers", "\x03\x00\x00\x00\x7E", "\x83\x03"},
		{"2001 coils", "\x01\x00\x00\x07\xD1", "\x81\x03"},
		{"beyond the end", "\x03\xFF\xFF\x00\x02", "\x83\x02"},
		{"short", "\x03\x00", "\x83\x03"},
		{"long", "\x03\x00\x00\x00\x01\x00", "\x83\x03"},
		{"illegal", "\x04\x00\x63\x00\x02", "\x84\x02"},
		{"function 43", "\x2B\x0E\x01\x00", "\xAB\x01"},
		{"diagnostics", "\x08\x00\x00\xAB\xCD", "\x08\x00\x00\xAB\xCD"},
		{"coil on", "\x05\x00\x01\xFF\x00", "\x05\x00\x01\xFF\x00"},
		{"coil neither", "\x05\x00\x01\x12\x34", "\x85\x03"},
		{"register", "\x06\x00\x01\x12\x34", "\x06\x00\x01\x12\x34"},
		{"registers", "\x10\x00\x01\x00\x02\x04\x12\x34\x56\x78", "\x10\x00\x01\x00\x02"},
		{"registers, byte count lies", "\x10\x00\x01\x00\x02\x02\x12\x34", "\x90\x03"},
		{"registers, bytes missing", "\x10\x00\x01\x00\x02\x04\x12\x34", "\x90\x03"},
		{"mask", "\x16\x00\x04\x00\xF2\x00\x25", "\x16\x00\x04\x00\xF2\x00\x25"},
		{"mask, short", "\x16\x00\x04\x00\xF2\x00", "\x96\x03"},
		{"write and read", "\x17\x00\x01\x00\x02\x00\x02\x00\x01\x02\xAB\xCD", "\x17\x04\x81\x01\xAB\xCD"},
		{"write and read, byte count lies", "\x17\x00\x01\x00\x02\x00\x02\x00\x01\x04\xAB\xCD", "\x97\x03"},
		{"write and read 126", "\x17\x00\x01\x00\x7E\x00\x02\x00\x01\x02\xAB\xCD", "\x97\x03"},
		{"write and read beyond the end", "\x17\xFF\xFF\x00\x02\x00\x02\x00\x01\x02\xAB\xCD", "\x97\x02"},
		{"no queue", "\x18\x00\x01", "\x98\x01"},
		{"coils written", "\x0F\x00\x01\x00\x09\x02\xFF\x01", "\x0F\x00\x01\x00\x09"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := &plant{illegal: map[Register]bool{{Input, 100, 1}: true}}
			got := Serve(1, PDU(tt.req), store)
			if tt.name == "coils" {
				var bits []byte
				for i := range 9 {
					bits = append(bits, byte(valueAt(1, Coil, i)))
				}
				tt.want = "\x01\x02" + string(packBits(nil, bits))
			}
			if string(got) != tt.want {
				t.Errorf("% x, want % x", got, tt.want)
			}
		})
	}
	if got := Serve(9, PDU("\x03\x00\x00\x00\x01"), &plant{silent: map[byte]bool{9: true}}); got != nil {
		t.Errorf("a silent unit said % x", got)
	}
}

// TestServeRTU puts requests on a line as they come, whole, in pieces, and in
// noise.
func TestServeRTU(t *testing.T) {
	request := func(unit byte, pdu string) []byte {
		b, err := encodeRTU(unit, PDU(pdu))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := request(1, "\x03\x00\x64\x00\x02")
	answer := rtuReply(&plant{}, good)
	for _, tt := range []struct {
		name string
		in   []piece
		want []byte
	}{
		{"whole", atOnce(good), answer},
		{"byte by byte", bytewise(good, 20*time.Millisecond), answer},
		{"two at once", atOnce(joined(good, good)), joined(answer, answer)},
		{"noise first", atOnce(joined([]byte{0, 0x10, 0xFF, 3}, good)), answer},
		{"noise that looks like a long write", atOnce(joined([]byte{1, 0x10, 0, 0, 0, 9}, good)), answer},
		{"bad checksum", []piece{{0, patched(good, 7, good[7]^1)}, {time.Second, good}}, answer},
		{"cut short, then whole", []piece{{0, good[:5]}, {time.Second, good}}, answer},
		{"function 17", atOnce(request(1, "\x11")), request(1, "\x91\x01")},
		{"silent unit", atOnce(request(9, "\x03\x00\x64\x00\x02")), nil},
		{"broadcast", []piece{{0, request(0, "\x06\x00\x64\x00\x02")}, {time.Second, good}}, request(1, "\x03\x04\x00\x02\x81\x65")},
		{"another unit's talk", atOnce(joined(request(9, "\x03\x00\x64\x00\x01"), request(9, "\x03\x02\x00\x01"), good)), answer},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() {
					done <- ServeRTU(ctx, far, serial.Config{Baud: 9600}, &plant{silent: map[byte]bool{9: true}})
				}()
				go func() {
					for _, p := range tt.in {
						time.Sleep(p.after)
						near.Write(p.bytes)
					}
				}()
				var got bytes.Buffer
				near.SetReadDeadline(time.Now().Add(5 * time.Second))
				got.ReadFrom(near)
				if !bytes.Equal(got.Bytes(), tt.want) {
					t.Errorf("% x, want % x", got.Bytes(), tt.want)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				far.Close()
			})
		})
	}
}

func TestServeRTUEndsWhenThePortIsGone(t *testing.T) {
	near, far := net.Pipe()
	near.Close()
	if err := ServeRTU(t.Context(), far, at9600, &plant{}); err == nil {
		t.Error("no error")
	}
}
