package serial

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"edgegateway/devices"
)

// Blocks are blocks of text lines such as the telegrams of electricity meters:
// one line that begins with Start, then data lines, then one that begins with
// End. Data lines have the form of IEC 62056-21: an OBIS code and values in
// brackets, each with its unit behind an asterisk, 1-0:1.8.1(001234.567*kWh).
//
// With a checksum a block is taken if it is right; it stands in hexadecimal
// behind End and covers all from Start to End, both with it. Without one a
// block is taken if each of its lines has the right form, which notices much
// but not a digit that became another.
type Blocks struct {
	Start, End string
	Sum        *Sum // of two bytes; nil: none
}

const maxBlock = 16384 // bytes; a DSMR telegram with a text message has about 3000

// Check implements Framing.
func (b Blocks) Check() error {
	switch {
	case b.Start == "" || b.End == "" || strings.ContainsAny(b.Start+b.End, "\r\n"):
		return errors.New(`blocks need a start and an end, what their first and last lines begin with: "/" and "!"`)
	case b.Sum == nil:
		return nil
	case b.Sum.size() != 2:
		return fmt.Errorf("the checksum of a block is sum16 or crc16, not %q", b.Sum.Kind)
	}
	return b.Sum.Check()
}

// CheckSource implements Framing.
func (b Blocks) CheckSource(src devices.Source) error {
	f, ok := src.(Field)
	if !ok || f.Key == "" || f.Index < 0 || f.Sentence != "" {
		return fmt.Errorf(`%v is not an OBIS code, such as "1-0:1.8.1*kWh"`, src)
	}
	return nil
}

func (b Blocks) decoder(out *outlet) decoder { return &blockDecoder{Blocks: b, out: out} }

// A blockDecoder finds the blocks of one stream.
type blockDecoder struct {
	Blocks
	out   *outlet
	block []byte // whole lines of one that has begun
	line  []byte // whose end has not come
	lost  bool   // the line got too long
}

func (d *blockDecoder) feed(data []byte) {
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			d.keep(data)
			return
		}
		d.keep(data[:i+1])
		data = data[i+1:]
		if d.lost {
			d.abandon("a block was too long")
		} else {
			d.take(d.line)
		}
		d.line, d.lost = d.line[:0], false
	}
}

func (d *blockDecoder) keep(data []byte) {
	if len(d.line)+len(d.block)+len(data) > maxBlock {
		d.lost = true
		return
	}
	d.line = append(d.line, data...)
}

// abandon gives up a block that was begun.
func (d *blockDecoder) abandon(why string) {
	if len(d.block) > 0 {
		d.out.bad(why)
	}
	d.block = d.block[:0]
}

func (d *blockDecoder) silence() {
	if len(d.line) > 0 && len(d.block) == 0 {
		d.out.bad("a line broke off")
	}
	d.abandon("a block broke off")
	d.line, d.lost = d.line[:0], false
}

// take adds a whole line with its end.
func (d *blockDecoder) take(line []byte) {
	if len(d.block) > 0 && bytes.HasPrefix(line, []byte(d.End)) {
		d.finish(line)
		d.block = d.block[:0]
		line = line[len(d.End):] // behind a checksum that is cut off the next block may begin
	}
	switch at := bytes.LastIndex(line, []byte(d.Start)); {
	case bytes.HasPrefix(line, []byte(d.Start)):
		d.abandon("a block broke off")
	case len(d.block) > 0:
	case at < 0:
		return // between blocks
	default:
		line = line[at:] // behind noise
	}
	d.block = append(d.block, line...)
}

// finish proves the block, whose last line is given.
func (d *blockDecoder) finish(last []byte) {
	body := append(d.block, d.End...)
	trailer := bytes.TrimSuffix(last[len(d.End):], []byte("\n"))
	trailer = bytes.TrimSuffix(trailer, []byte("\r"))
	if err := d.prove(body, trailer); err != nil {
		d.out.bad(err.Error())
		return
	}
	t, err := parseOBIS(d.block, d.Sum != nil)
	if err != nil {
		d.out.bad(err.Error())
		return
	}
	d.out.good(t)
}

func (d *blockDecoder) prove(body, trailer []byte) error {
	if d.Sum == nil {
		if len(trailer) > 0 {
			return fmt.Errorf("there is %q behind the end of a block; if it is a checksum, say so", clip(trailer))
		}
		return nil
	}
	var sum [2]byte
	if len(trailer) != 4 {
		return fmt.Errorf("the checksum %q of a block has not four digits", clip(trailer))
	}
	if _, err := hex.Decode(sum[:], trailer); err != nil {
		return fmt.Errorf("the checksum %q of a block is not hexadecimal", trailer)
	}
	if want := d.Sum.Of(body); want != uint16(sum[0])<<8|uint16(sum[1]) {
		return fmt.Errorf("checksum of a block is %04X, the block says %s", want, trailer)
	}
	return nil
}

// A telegram is the values in brackets behind each OBIS code.
type telegram map[string][][]byte

// parseOBIS reads the data lines of a block. Lines of another form are passed
// over in a block that is proven, as are all but the first of one code.
func parseOBIS(block []byte, proven bool) (telegram, error) {
	t := make(telegram)
	first, last := true, ""
	for line := range bytes.Lines(block) {
		line = bytes.TrimRight(line, "\r\n")
		if first || len(line) == 0 {
			first = false
			continue
		}
		code, groups, ok := splitOBIS(line)
		switch {
		case !ok && proven:
			last = ""
		case !ok:
			return nil, fmt.Errorf("%q is no data line", clip(line))
		case code == "" && last != "": // goes on behind a line end, as gas values did before DSMR 4
			t[last] = append(t[last], groups...)
		case code != "" && t[code] == nil:
			t[code], last = groups, code
		default:
			last = ""
			if !proven {
				return nil, fmt.Errorf("%q stands twice in one block", clip(line))
			}
		}
	}
	return t, nil
}

// splitOBIS reads `code(value)(value)`; the code may be missing.
func splitOBIS(line []byte) (code string, groups [][]byte, ok bool) {
	open := bytes.IndexByte(line, '(')
	if open < 0 || !isCode(line[:open]) {
		return "", nil, false
	}
	code = string(line[:open])
	for rest := line[open:]; len(rest) > 0; {
		end := bytes.IndexByte(rest, ')')
		if rest[0] != '(' || end < 0 || bytes.IndexByte(rest[1:end], '(') >= 0 || !isText(rest[:end]) {
			return "", nil, false
		}
		groups = append(groups, rest[1:end])
		rest = rest[end+1:]
	}
	return code, groups, true
}

func isCode(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && !strings.ContainsRune("-:.*&", rune(c)) {
			return false
		}
	}
	return true
}

func (t telegram) holds(devices.Source) bool { return true }

// value returns the last value of a code, or the one with the field's index,
// without its unit. A field that names a unit wants this one.
func (t telegram) value(src devices.Source) ([]byte, error) {
	f := src.(Field)
	code, unit := SplitUnit(f.Key)
	return obisValue(t[code], f, unit)
}

// obisValue is the value among those of a code that f means.
func obisValue(groups [][]byte, f Field, unit string) ([]byte, error) {
	i := f.Index - 1
	if f.Index == 0 {
		i = len(groups) - 1
	}
	if i < 0 || i >= len(groups) {
		return nil, &NoValue{Field: f}
	}
	raw, has := groups[i], ""
	if star := bytes.LastIndexByte(raw, '*'); star >= 0 {
		raw, has = raw[:star], string(raw[star+1:])
	}
	switch {
	case len(raw) == 0:
		return nil, &NoValue{Field: f}
	case unit != "" && unit != has:
		return nil, &NoValue{Field: f, Unit: has, Bare: has == ""}
	}
	return raw, nil
}

// SplitUnit splits 1-0:1.8.1*kWh into code and unit. The last part of a code
// may stand behind an asterisk, too, but is a number: 1-0:1.8.1*255.
func SplitUnit(key string) (code, unit string) {
	star := strings.LastIndexByte(key, '*')
	if star < 0 {
		return key, ""
	}
	if _, err := strconv.Atoi(key[star+1:]); err == nil {
		return key, ""
	}
	return key[:star], key[star+1:]
}
