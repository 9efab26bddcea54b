package serial

import (
	"errors"
	"fmt"

	"edgegateway/devices"
)

// VEDirect is the text mode of Victron's VE.Direct: blocks of labels and
// values, the last one called Checksum, after which all bytes of the block add
// up to 0. Messages in hexadecimal, which a device may send at any time, do not
// belong to a block.
//
// The checksum is weak, so that the form must be right, too: line ends, labels
// of one to eight characters that differ, values of up to 32, hexadecimal
// messages with their own checksum. What is heard before the first checksum
// after opening, or after something wrong, is not used.
//
// A device sends its values in several blocks, so that a block without a label
// says nothing about it.
type VEDirect struct{}

const (
	maxLabel   = 8
	maxValue   = 32
	maxLabels  = 64 // of one block; the standard says 22
	maxHexText = 256
)

const checksumLabel = "Checksum"

// Check implements Framing.
func (VEDirect) Check() error { return nil }

// CheckSource implements Framing.
func (VEDirect) CheckSource(src devices.Source) error {
	f, ok := src.(Field)
	if !ok || f.Sentence != "" || f.Index != 0 || len(f.Key) == 0 || len(f.Key) > maxLabel || f.Key == checksumLabel {
		return fmt.Errorf("%v is not a label of VE.Direct, such as V or PPV", src)
	}
	return nil
}

func (VEDirect) decoder(out *outlet) decoder {
	return &veDecoder{out: out, values: make(map[string][]byte)}
}

// A veState is what a veDecoder expects.
type veState uint8

const (
	veLost  veState = iota // until a checksum is found
	veReady                // CR, the first byte of a block or line
	veLF
	veLabel
	veValue
	veSum
)

// A veDecoder finds the blocks of one stream.
type veDecoder struct {
	out    *outlet
	state  veState
	hex    []byte // of a message in between; it begins with its colon
	sum    byte
	label  []byte
	value  []byte
	values map[string][]byte
	tail   []byte // the last bytes while lost, to find the checksum
}

func (d *veDecoder) feed(data []byte) {
	for _, c := range data {
		if err := d.byte(c); err != nil {
			d.out.bad(err.Error())
			d.lose()
		}
	}
}

// silence between blocks is usual.
func (d *veDecoder) silence() {
	if d.state == veLost || d.begun() {
		if d.begun() {
			d.out.bad("a block broke off")
		}
		d.lose()
	}
}

// begun reports whether part of a block was heard.
func (d *veDecoder) begun() bool {
	return d.state > veReady || len(d.values) > 0 || len(d.hex) > 0
}

func (d *veDecoder) lose() {
	d.state, d.tail = veLost, d.tail[:0]
	d.reset()
}

// reset forgets the block.
func (d *veDecoder) reset() {
	d.sum, d.hex, d.label, d.value = 0, d.hex[:0], d.label[:0], d.value[:0]
	clear(d.values)
}

func (d *veDecoder) byte(c byte) error {
	if d.state == veLost {
		d.find(c)
		return nil
	}
	if len(d.hex) > 0 || c == ':' && d.state != veSum {
		return d.hexByte(c)
	}
	d.sum += c
	switch d.state {
	case veReady:
		if c != '\r' {
			return fmt.Errorf("%q where a line should begin", c)
		}
		d.state = veLF
	case veLF:
		if c != '\n' {
			return fmt.Errorf("%q where a line should begin", c)
		}
		d.state = veLabel
	case veLabel:
		return d.labelByte(c)
	case veValue:
		return d.valueByte(c)
	case veSum:
		return d.finish()
	}
	return nil
}

// find looks for the end of a block whose beginning is unknown.
func (d *veDecoder) find(c byte) {
	const mark = "\r\n" + checksumLabel + "\t"
	if string(d.tail) == mark {
		d.state = veReady
		d.reset()
		return
	}
	if len(d.tail) == len(mark) {
		d.tail = append(d.tail[:0], d.tail[1:]...)
	}
	d.tail = append(d.tail, c)
}

func (d *veDecoder) labelByte(c byte) error {
	switch {
	case c == '\t' && string(d.label) == checksumLabel:
		d.state = veSum
	case c == '\t' && len(d.label) > 0 && d.values[string(d.label)] == nil:
		d.state = veValue
	case c <= ' ' || c > '~' || len(d.label) == maxLabel:
		return fmt.Errorf("%q is no label", append(d.label, c))
	default:
		d.label = append(d.label, c)
	}
	return nil
}

func (d *veDecoder) valueByte(c byte) error {
	switch {
	case c == '\r':
		if len(d.values) == maxLabels {
			return errors.New("a block without end")
		}
		d.values[string(d.label)] = append([]byte{}, d.value...)
		d.label, d.value, d.state = d.label[:0], d.value[:0], veLF
	case c < ' ' || c > '~' || len(d.value) == maxValue:
		return fmt.Errorf("%q is no value of %s", append(d.value, c), d.label)
	default:
		d.value = append(d.value, c)
	}
	return nil
}

// finish ends a block with its checksum, which is added already.
func (d *veDecoder) finish() error {
	if d.sum != 0 {
		return fmt.Errorf("the bytes of a block add up to %#02x, not to 0", d.sum)
	}
	d.out.good(labels(d.values))
	d.state = veReady
	d.reset()
	return nil
}

// hexByte takes a byte of a message in hexadecimal: a colon, one digit for the
// command, two for each byte, LF. With its last byte it adds up to 0x55.
func (d *veDecoder) hexByte(c byte) error {
	if c != '\n' {
		if d.hex = append(d.hex, c); len(d.hex) > maxHexText {
			return errors.New("a message in hexadecimal is too long")
		}
		return nil
	}
	var sum byte
	digits := d.hex[1:]
	for i, c := range digits {
		n, ok := hexDigit(c)
		if !ok {
			return fmt.Errorf("%q is no message in hexadecimal", clip(d.hex))
		}
		if i%2 == 1 {
			n <<= 4
		}
		sum += n
	}
	if len(digits) < 3 || len(digits)%2 == 0 || sum != 0x55 {
		return fmt.Errorf("%q is no message in hexadecimal", clip(d.hex))
	}
	d.hex = d.hex[:0]
	return nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// labels are the values of a block.
type labels map[string][]byte

func (l labels) holds(src devices.Source) bool {
	_, ok := l[src.(Field).Key]
	return ok
}

func (l labels) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	// "---" is what devices say of what they do not know.
	if v := l[f.Key]; len(v) > 0 && string(v) != "---" {
		return v, nil
	}
	return nil, &NoValue{Field: f}
}
