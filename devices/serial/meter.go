package serial

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"edgegateway/devices"
)

// A Meter is one that is read as IEC 62056-21 says, mostly through an optical
// head (D0): it is called at a low speed, says who it is and which speed it
// offers, and sends all it has in one block at that speed.
//
//   - Mode C (the third letter of its identification's maker is followed by a
//     digit): it waits to be told which speed to take.
//   - Mode B (a letter from A to F): it changes to its speed by itself.
//   - Mode A (anything else): it goes on at the speed it was called at.
//
// A meter of mode D, which speaks by itself, has Blocks without a checksum.
//
// A block is taken if its check character is right, which covers all of it, and
// all its bytes are text: a byte with a wrong parity arrives as NUL. What is
// missed is two bits of one place inverted in two bytes whose parity is wrong
// both times and where the port does not look at it.
type Meter struct {
	Address string // of one of several that hear the call; "": whoever is there
	MaxBaud int    // what the head or the cable carries; 0: what the meter offers
	Wake    bool   // it sleeps, as meters on a battery do, until it hears NULs
}

const (
	stx = 0x02
	etx = 0x03
	ack = 0x06

	maxIdent = 256 // bytes before the end of an identification; it has some 23

	// Annex B: NULs for 2.1 to 2.3 s at 300 baud, then 1.5 to 1.7 s without.
	wakeNULs = 65
	wakeRest = 1600 * time.Millisecond
)

// Speeds by the character of an identification (6.3.14, 13c): of mode C from
// '0' on, of mode B from 'A' on.
var meterBauds = [...]int{300, 600, 1200, 2400, 4800, 9600, 19200}

// Check implements Framing.
func (m Meter) Check() error {
	if len(m.Address) > 32 || strings.ContainsFunc(m.Address, notInAddress) {
		return fmt.Errorf("the address %q of a meter has at most 32 letters, digits and blanks", m.Address)
	}
	if m.MaxBaud != 0 && m.MaxBaud < meterBauds[0] {
		return fmt.Errorf("%d baud is slower than any meter", m.MaxBaud)
	}
	return nil
}

func notInAddress(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != ' '
}

// CheckSource implements Framing.
func (m Meter) CheckSource(src devices.Source) error {
	f, ok := src.(Field)
	if !ok || f.Key == "" || f.Index < 0 || f.Sentence != "" {
		return fmt.Errorf(`%v is not an OBIS code, such as "1.8.0*kWh"`, src)
	}
	return nil
}

// Request is what calls the meter.
func (m Meter) Request() []byte { return []byte("/?" + m.Address + "!\r\n") }

// An Identification is what a meter says to its call:
// /XXXZ and more, XXX for its maker and Z for the speed it offers.
type Identification struct {
	Text  string // all of it, without the line end
	Speed byte   // Z
}

// ParseIdentification reads a line without its end. What stands before the last
// slash is noise.
func ParseIdentification(line []byte) (id Identification, ok bool) {
	line = line[bytes.LastIndexByte(line, '/')+1:]
	if len(line) < 4 || !isText(line) {
		return id, false
	}
	for _, c := range line[:3] {
		if c|0x20 < 'a' || c|0x20 > 'z' {
			return id, false
		}
	}
	return Identification{Text: "/" + string(line), Speed: line[3]}, true
}

// Reaction is how long each side waits at least before it answers the other
// (6.3.14, 12): 200 ms, or 20 ms where the maker's third letter is small.
func (i Identification) Reaction() time.Duration {
	if i.Text[3] >= 'a' {
		return 20 * time.Millisecond
	}
	return 200 * time.Millisecond
}

// Offer is the speed offered, 0 for the present one, and whether the meter
// waits to be told that it may take it (mode C).
func (i Identification) Offer() (baud int, waits bool, err error) {
	switch n := int(i.Speed); {
	case n >= '0' && n <= '6':
		return meterBauds[n-'0'], true, nil
	case n >= '7' && n <= '9': // reserved
		return 0, true, nil
	case n >= 'A' && n <= 'F':
		return meterBauds[n-'A'+1], false, nil
	case n >= 'G' && n <= 'I': // reserved
		return 0, false, fmt.Errorf("the meter changes to a speed that the standard does not know (%q in %q): %w", i.Speed, i.Text, devices.ErrReply)
	}
	return 0, false, nil
}

// option is the line that lets a meter of mode C send its data, at a speed of
// no more than most; baud is 0 for the present one, which is what '0' means in it.
func (i Identification) option(most int) (line []byte, baud int) {
	z := byte('0')
	for n, b := range meterBauds {
		if n > 0 && b <= most && '0'+byte(n) <= i.Speed && i.Speed <= '6' {
			z, baud = '0'+byte(n), b
		}
	}
	return []byte{ack, '0', z, '0', '\r', '\n'}, baud
}

func (m Meter) decoder(out *outlet) decoder { return &meterDecoder{out: out} }

// A meterDecoder finds data messages: STX, block, ETX, check character.
type meterDecoder struct {
	out   *outlet
	open  bool   // STX has come
	ended bool   // ETX, too
	block []byte // what stands between
}

func (d *meterDecoder) feed(data []byte) {
	for _, c := range data {
		switch {
		case d.ended:
			d.finish(c)
		case c == stx: // or one that noise had shown before
			d.begin()
		case !d.open:
		case c == etx:
			d.ended = true
		case len(d.block) == maxBlock:
			d.open = false
			d.out.bad("a block was too long")
		default:
			d.block = append(d.block, c)
		}
	}
}

func (d *meterDecoder) begin() { d.open, d.ended, d.block = true, false, d.block[:0] }

// finish proves the block, whose check character is given: all bytes after STX
// up to ETX, that included, exclusive-or.
func (d *meterDecoder) finish(given byte) {
	d.open, d.ended = false, false
	want := byte(Sum{Kind: "xor"}.Of(d.block)) ^ etx
	if want != given {
		d.out.bad(fmt.Sprintf("the block's check character is %02X, its %d bytes give %02X: a byte got lost or changed", given, len(d.block), want))
		return
	}
	r, err := parseReadout(d.block)
	if err != nil {
		d.out.bad(err.Error())
		return
	}
	d.out.good(r)
}

func (d *meterDecoder) silence() {
	if d.open {
		d.out.bad(fmt.Sprintf("the block broke off after %d bytes", len(d.block)))
	}
	d.open, d.ended = false, false
}

// A readout is the values in brackets behind each code of a meter's block.
type readout map[string][][]byte

// parseReadout reads data sets, of which a line may have several:
// code(value*unit)(value)code(value), and an exclamation mark at the end.
func parseReadout(block []byte) (readout, error) {
	r := make(readout)
	code := ""
	for rest := bytes.TrimLeft(block, "\r\n"); ; {
		if text, ok := bytes.CutPrefix(rest, []byte("!")); ok && len(bytes.Trim(text, "\r\n")) == 0 {
			return r, nil
		}
		open := bytes.IndexByte(rest, '(')
		end := bytes.IndexByte(rest, ')')
		if open < 0 || end < open || !isText(rest[:open]) || !isText(rest[open:end]) || bytes.IndexByte(rest[open+1:end], '(') >= 0 {
			return nil, fmt.Errorf("%q is no data of a meter", clip(rest))
		}
		if open > 0 {
			code = string(bytes.TrimSpace(rest[:open]))
			if r[code] != nil {
				code = "" // the first counts
			}
		}
		if code != "" {
			r[code] = append(r[code], rest[open+1:end])
		}
		rest = bytes.TrimLeft(rest[end+1:], "\r\n")
	}
}

func (readout) holds(devices.Source) bool { return true }

func (r readout) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	code, unit := SplitUnit(f.Key)
	return obisValue(r.find(code), f, unit)
}

// find returns the values of a code. One that is short, such as 1.8.0, is found
// under its full form as well, such as 1-0:1.8.0*255, if there is only one.
func (r readout) find(code string) [][]byte {
	if groups := r[code]; groups != nil || strings.Contains(code, ":") {
		return groups
	}
	var found [][]byte
	for full, groups := range r {
		if shortCode(full) != code {
			continue
		}
		if found != nil {
			return nil // of two channels
		}
		found = groups
	}
	return found
}

// shortCode is the middle of an OBIS code, C.D.E, with a billing period if it
// tells of one: 255 stands for none.
func shortCode(code string) string {
	return strings.TrimSuffix(code[strings.IndexByte(code, ':')+1:], "*255")
}
