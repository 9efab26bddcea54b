package capture

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"edgegateway/devices"
)

// Version is that of the files written here, and the last that is read.
const Version = 1

const magic = "gateway-capture"

// What Header.Framing can be.
const (
	RTU   = "rtu"
	ASCII = "ascii"
	TCP   = "tcp" // frames with transaction ids, on TCP, TLS or UDP
	Text  = "text"
	Bytes = "bytes"
)

var framings = []string{RTU, ASCII, TCP, Text, Bytes}

// A Header says what was recorded.
type Header struct {
	Bus      string
	Address  string
	Protocol string // as in the configuration: modbus, lines, frames
	Framing  string
	Baud     int           // of a serial line; 0: none
	Format   string        // 8N1
	Start    time.Time     // wall time
	Clock    string        // how far it can be trusted: exact, interpolated, bounded, unsynced
	Boot     devices.Stamp // the same moment
	Gateway  string        // the version that recorded
	Open     bool          // the port was at the start
}

// text reports whether bytes are mostly characters.
func (h *Header) text() bool { return h.Framing == ASCII || h.Framing == Text }

// append appends the header as it stands in a file.
func (h *Header) append(dst []byte) []byte {
	dst = fmt.Appendf(dst, "%s %d\n", magic, Version)
	put := func(key, value string) {
		if value != "" {
			dst = fmt.Appendf(dst, "%-8s %s\n", key, oneLine(value))
		}
	}
	put("bus", h.Bus)
	put("address", h.Address)
	put("protocol", h.Protocol)
	put("framing", h.Framing)
	if h.Baud > 0 {
		put("line", strings.TrimSpace(fmt.Sprintf("%d %s", h.Baud, h.Format)))
	}
	put("start", h.Start.UTC().Format("2006-01-02T15:04:05.000000Z"))
	put("clock", h.Clock)
	put("boot", seconds(time.Duration(h.Boot)))
	put("gateway", h.Gateway)
	put("port", map[bool]string{true: "open", false: "closed"}[h.Open])
	return append(dst, '\n')
}

// oneLine keeps a value, of a name that a person chose, on its line.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F || r == 0xFFFD }), " ")
}

func seconds(d time.Duration) string {
	return fmt.Sprintf("%d.%06d", d/time.Second, d%time.Second/time.Microsecond)
}

// A Writer writes a capture.
type Writer struct {
	w    io.Writer
	text bool
	buf  []byte
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	_, err := w.Write(h.append(nil))
	return &Writer{w: w, text: h.text()}, err
}

// Add writes one event.
func (w *Writer) Add(e Event) error {
	w.buf = appendEvent(w.buf[:0], e, w.text)
	_, err := w.w.Write(w.buf)
	return err
}

var words = map[Kind]string{Sent: ">", Received: "<", Opened: "open", Closed: "close", Failed: "error", Speed: "speed", Missed: "missed", Ended: "end"}

var kinds = func() map[string]Kind {
	m := map[string]Kind{}
	for k, w := range words {
		m[w] = k
	}
	return m
}()

func appendEvent(dst []byte, e Event, text bool) []byte {
	dst = append(append(append(dst, seconds(e.At)...), ' '), words[e.Kind]...)
	switch e.Kind {
	case Sent, Received:
		dst = appendData(append(dst, ' '), e.Data, text)
	case Failed, Ended:
		dst = strconv.AppendQuote(append(dst, ' '), e.Text)
	case Speed:
		dst = fmt.Appendf(dst, " %d", e.Baud)
	case Missed:
		dst = fmt.Appendf(dst, " %d %d", e.Count, e.Bytes)
	}
	return append(dst, '\n')
}

func appendData(dst, data []byte, text bool) []byte {
	if text && !bytes.ContainsFunc(data, func(r rune) bool { return r > '~' || r < ' ' && r != '\r' && r != '\n' && r != '\t' }) {
		return strconv.AppendQuoteToASCII(dst, string(data))
	}
	return fmt.Appendf(dst, "% X", data)
}

// A FormatError says what is wrong with a file, where, and what to do.
type FormatError struct {
	Line int
	What string
}

func (e *FormatError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.What) }

const (
	maxLine = 64 << 10
	maxData = 16 << 10 // bytes of one event
	maxTime = 10 * 365 * 24 * time.Hour
)

// A Reader reads a capture event by event.
type Reader struct {
	Header Header

	in   *bufio.Reader
	line int
	last time.Duration
	cut  bool
	err  error // sticky
}

// NewReader reads the header.
func NewReader(r io.Reader) (*Reader, error) {
	c := &Reader{in: bufio.NewReaderSize(r, maxLine)}
	if err := c.readHeader(); err != nil {
		return nil, err
	}
	return c, nil
}

// Cut reports, at the end, whether the last line was cut off.
func (c *Reader) Cut() bool { return c.cut }

func (c *Reader) wrong(format string, args ...any) error {
	return &FormatError{c.line, fmt.Sprintf(format, args...)}
}

// next returns the next line without its end; io.EOF after the last.
func (c *Reader) next() (string, error) {
	c.line++
	b, err := c.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", c.wrong("it is longer than %d bytes, and no line of a capture is: is it another file?", maxLine)
	case errors.Is(err, io.EOF):
		c.cut = len(b) > 0
		return "", io.EOF
	case err != nil:
		return "", fmt.Errorf("line %d: %w", c.line, err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

func (c *Reader) readHeader() error {
	line, err := c.next()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	first, version, _ := strings.Cut(line, " ")
	n, bad := strconv.Atoi(strings.TrimSpace(version))
	switch {
	case first != magic || bad != nil || n < 1:
		return c.wrong("it is no capture: such a file begins with %q; `gateway capture BUS` writes one", fmt.Sprintf("%s %d", magic, Version))
	case n > Version:
		return c.wrong("it is of version %d, and this gateway reads %d at most: use the gateway that wrote it, or a newer one", n, Version)
	}
	for {
		line, err := c.next()
		switch {
		case errors.Is(err, io.EOF):
			return c.wrong("the file ends within its header: an empty line is missing, after which the events come")
		case err != nil:
			return err
		case line == "":
			return c.checkHeader()
		case strings.HasPrefix(line, "#"):
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		if err := c.setKey(key, strings.TrimSpace(value)); err != nil {
			return err
		}
	}
}

func (c *Reader) setKey(key, value string) (err error) {
	h := &c.Header
	switch key {
	case "bus":
		h.Bus = value
	case "address":
		h.Address = value
	case "protocol":
		h.Protocol = value
	case "framing":
		h.Framing = value
	case "line":
		baud, format, _ := strings.Cut(value, " ")
		h.Format = format
		if h.Baud, err = strconv.Atoi(baud); err != nil || h.Baud <= 0 || h.Baud > 100_000_000 {
			return c.wrong("line %q: it is the speed and the format of a serial line, such as 9600 8N1", value)
		}
	case "start":
		if h.Start, err = time.Parse(time.RFC3339Nano, value); err != nil || h.Start.Year() < 1970 || h.Start.Year() > 2200 {
			return c.wrong("start %q: it is a time such as 2026-11-20T23:06:00.123456Z", value)
		}
		h.Start = h.Start.UTC().Truncate(time.Microsecond)
	case "clock":
		h.Clock = value
	case "boot":
		boot, ok := parseSeconds(value)
		if !ok {
			return c.wrong("boot %q: it is the seconds since the machine was started, such as 12345.678901", value)
		}
		h.Boot = devices.Stamp(boot)
	case "gateway":
		h.Gateway = value
	case "port":
		h.Open = value == "open"
	}
	return nil
}

func (c *Reader) checkHeader() error {
	if !slices.Contains(framings, c.Header.Framing) {
		return c.wrong("the header says framing %q; it is one of %s: add or mend that line", c.Header.Framing, strings.Join(framings, ", "))
	}
	if c.Header.Start.IsZero() {
		return c.wrong("the header does not say when the capture began: add a line such as `start 2026-11-20T23:06:00Z`")
	}
	return nil
}

// parseSeconds reads 12.345678; more digits are cut.
func parseSeconds(s string) (time.Duration, bool) {
	whole, part, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseUint(whole, 10, 32)
	if err != nil || time.Duration(sec)*time.Second > maxTime || len(part) > 9 {
		return 0, false
	}
	d := time.Duration(sec) * time.Second
	if part != "" {
		us, err := strconv.ParseUint((part + "000000")[:6], 10, 32)
		if err != nil {
			return 0, false
		}
		if _, err := strconv.ParseUint(part, 10, 64); err != nil {
			return 0, false
		}
		d += time.Duration(us) * time.Microsecond
	}
	return d, true
}

// remedy is what to do about a line that is no event.
const remedy = "mend it, or put # before it to leave it out"

// Next returns the next event, or io.EOF.
func (c *Reader) Next() (Event, error) {
	for c.err == nil {
		line, err := c.next()
		if err != nil {
			c.err = err
			break
		}
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		e, err := c.parse(line)
		if err != nil {
			c.err = err
			break
		}
		return e, nil
	}
	return Event{}, c.err
}

func (c *Reader) parse(line string) (e Event, err error) {
	at, rest, _ := strings.Cut(line, " ")
	word, rest, _ := strings.Cut(strings.TrimSpace(rest), " ")
	rest = strings.TrimSpace(rest)
	var ok bool
	if e.At, ok = parseSeconds(at); !ok {
		return e, c.wrong("%q is no time: an event begins with seconds such as 0.001234; %s", clip(at), remedy)
	}
	if e.At < c.last {
		return e, c.wrong("the time %s is before that of the event above, %s: %s", seconds(e.At), seconds(c.last), remedy)
	}
	c.last = e.At
	if e.Kind, ok = kinds[word]; !ok {
		return e, c.wrong("there is no event %q; there is >, <, open, close, error, speed, missed and end: %s", clip(word), remedy)
	}
	switch e.Kind {
	case Sent, Received:
		if e.Data, err = parseData(rest); err != nil || len(e.Data) == 0 || len(e.Data) > maxData {
			return e, c.wrong("%q is neither bytes such as 01 03 00 FF nor a text in quotes: %s", clip(rest), remedy)
		}
	case Failed, Ended:
		if e.Text, err = strconv.Unquote(rest); err != nil || rest[0] != '"' {
			return e, c.wrong("after %s stands a text in quotes, not %q: %s", word, clip(rest), remedy)
		}
	case Speed:
		if e.Baud, err = strconv.Atoi(rest); err != nil || e.Baud <= 0 {
			return e, c.wrong("after speed stands a baud rate such as 9600, not %q: %s", clip(rest), remedy)
		}
	case Missed:
		count, size, _ := strings.Cut(rest, " ")
		var bad error
		e.Count, err = strconv.ParseUint(count, 10, 63)
		if e.Bytes, bad = strconv.ParseUint(size, 10, 63); err != nil || bad != nil {
			return e, c.wrong("after missed stand how many events and bytes, not %q: %s", clip(rest), remedy)
		}
	default:
		if rest != "" {
			return e, c.wrong("after %s stands nothing, not %q: %s", word, clip(rest), remedy)
		}
	}
	return e, nil
}

func parseData(s string) ([]byte, error) {
	if strings.HasPrefix(s, `"`) {
		text, err := strconv.Unquote(s)
		return []byte(text), err
	}
	return hex.DecodeString(strings.ReplaceAll(s, " ", ""))
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// A Capture is a whole one in memory.
type Capture struct {
	Header
	Events []Event
	Cut    bool // the last line was cut off, and is left out
}

// maxSize is how large a capture is that is read into memory.
const maxSize = 256 << 20

// Read reads a whole capture.
func Read(r io.Reader) (*Capture, error) {
	limited := &io.LimitedReader{R: r, N: maxSize + 1}
	in, err := NewReader(limited)
	if err != nil {
		return nil, err
	}
	c := &Capture{Header: in.Header}
	for {
		e, err := in.Next()
		switch {
		case limited.N <= 0:
			return nil, fmt.Errorf("it is larger than %d MiB: cut it; its header has to stay", maxSize>>20)
		case errors.Is(err, io.EOF):
			c.Cut = in.Cut()
			return c, nil
		case err != nil:
			return nil, err
		}
		c.Events = append(c.Events, e)
	}
}
