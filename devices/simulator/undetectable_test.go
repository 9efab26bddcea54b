package simulator

import (
	"bytes"
	"encoding/hex"
	"testing"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

func TestUndetectable(t *testing.T) {
	body := []byte{1, 3, 4, 0, 1, 0, 2}
	for _, c := range []struct {
		name    string
		truth   []byte
		arrives []byte // with a right checksum
		want    bool
	}{
		{"as it was", body, body, false},
		{"another value", body, []byte{1, 3, 4, 0, 1, 0, 3}, true},
		{"another unit", body, []byte{2, 3, 4, 0, 1, 0, 3}, false},
		{"another function", body, []byte{1, 4, 4, 0, 1, 0, 3}, false},
		{"another count", body, []byte{1, 3, 2, 0, 1, 0, 3}, false},
		{"a part", body, []byte{1, 3, 4, 0, 1}, false},
		{"a write, which is compared", []byte{1, 6, 0, 1, 0, 7}, []byte{1, 6, 0, 1, 0, 6}, false},
		{"an exception", []byte{1, 0x83, 2}, []byte{1, 0x83, 3}, false},
		{"bits", []byte{1, 1, 1, 5}, []byte{1, 1, 1, 4}, true},
	} {
		for _, noise := range []string{"", "\x01\x03:", "\x00"} {
			rtu := undetectable(withCRC(bytes.Clone(c.truth)), append([]byte(noise), withCRC(bytes.Clone(c.arrives))...), rtuAnswers)
			ascii := undetectable(withLRC(c.truth), append([]byte(noise), withLRC(c.arrives)...), asciiAnswers)
			if rtu != c.want || ascii != c.want {
				t.Errorf("%s behind %q: RTU %v, ASCII %v, want %v", c.name, noise, rtu, ascii, c.want)
			}
		}
		spoiled := withCRC(bytes.Clone(c.arrives))
		spoiled[len(spoiled)-1]++
		if undetectable(withCRC(bytes.Clone(c.truth)), spoiled, rtuAnswers) {
			t.Errorf("%s: with a wrong checksum it is undetectable", c.name)
		}
	}
}

// Two bits that are inverted in a frame of ASCII cancel each other out in its
// checksum now and then: these answers are counted, and only these.
func TestUndetectableAnswersAreCounted(t *testing.T) {
	dev := boiler(t, 2).device("plc")
	s := newPlant(t, newClock(), Config{Buses: []Bus{{Name: "plc", Kind: ASCII, Lenient: true, Faults: map[byte]Fault{2: {Flip: 2}}, Devices: []*mapping.Device{dev}}}})
	d, kept := &desk{bus: s.buses[0]}, uint64(0)
	for range 3000 {
		reply := append([]byte{2}, modbus.Serve(2, []byte{3, 0, 0, 0, 8}, d)...)
		arrived, _ := d.spoil(withLRC(reply))
		raw, err := hex.DecodeString(string(arrived[1 : len(arrived)-2]))
		sum := byte(0)
		for _, b := range raw {
			sum += b
		}
		if err == nil && arrived[0] == ':' && bytes.HasSuffix(arrived, []byte("\r\n")) && sum == 0 && bytes.HasPrefix(raw, reply[:3]) && !bytes.HasPrefix(raw, reply) {
			kept++
		}
	}
	if n := undetectables(s); n != kept || n == 0 {
		t.Errorf("%d answers are counted as undetectable, %d are", n, kept)
	}
}
