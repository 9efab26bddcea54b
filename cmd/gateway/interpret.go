package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"

	"edgegateway/devices/modbus"
	"edgegateway/mapping"
)

// words are registers of one unit as far as they have been asked for.
type words struct {
	*asker
	unit  byte
	table modbus.Table
	known map[int][]byte // by address; nil: refused
}

// blockSize is how many unknown registers are asked for at once. Where that is
// refused they are asked for in pairs, as some meters give out whole numbers
// only, and then one by one.
const blockSize = 10

// ensure asks for what is not known from first to last. Refused registers are
// no error, a unit that does not answer is.
func (w *words) ensure(ctx context.Context, first, last int) error {
	first, last = max(first, 0), min(last, math.MaxUint16)
	for at := first; at <= last; {
		if _, ok := w.known[at]; ok {
			at++
			continue
		}
		n := 1
		for at+n <= last && n < blockSize {
			if _, ok := w.known[at+n]; ok {
				break
			}
			n++
		}
		if err := w.ask(ctx, at, n); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// ask reads n registers from at on.
func (w *words) ask(ctx context.Context, at, n int) error {
	raw, err := w.insist(ctx, w.unit, modbus.Register{Table: w.table, Address: uint16(at), Count: uint16(n)})
	if err != nil {
		if replyOf(err) != answered {
			return err
		}
		part := 1
		switch {
		case n == 1:
			w.known[at] = nil
			return nil
		case n > 2:
			part = 2
		}
		for i := 0; i < n; i += part {
			if err := w.ask(ctx, at+i, min(part, n-i)); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range n {
		w.known[at+i] = raw[2*i : 2*i+2]
	}
	return nil
}

// get returns n registers from at on, nil if one of them is not there.
func (w *words) get(at, n int) []byte {
	var raw []byte
	for i := range n {
		word := w.known[at+i]
		if word == nil {
			return nil
		}
		raw = append(raw, word...)
	}
	return raw
}

// numberAs reads raw as one type in one order. It is false for what no device
// would mean: no number, or a float beyond all quantities.
func numberAs(raw []byte, t mapping.Type, o mapping.Order, scale mapping.Decimal) (mapping.Value, bool) {
	v, err := mapping.Decode(&mapping.Point{Type: t, Order: o, Scale: scale}, raw)
	if err != nil || v.IsNull() {
		return v, false
	}
	f, ok := v.Float64()
	float := t == mapping.F16 || t == mapping.F32 || t == mapping.F64
	if float && f != 0 && (math.Abs(f) < 1e-6 || math.Abs(f) > 1e12) {
		return v, false
	}
	return v, ok
}

// allTypes are the columns of `read --all-types`.
var allTypes = []struct {
	head string
	typ  mapping.Type
	ord  mapping.Order
}{
	{"U16", mapping.U16, mapping.ABCD}, {"I16", mapping.I16, mapping.ABCD}, {"BCD16", mapping.BCD16, mapping.ABCD},
	{"U32", mapping.U32, mapping.ABCD}, {"I32", mapping.I32, mapping.ABCD}, {"U32 CDAB", mapping.U32, mapping.CDAB}, {"I32 CDAB", mapping.I32, mapping.CDAB},
	{"F32", mapping.F32, mapping.ABCD}, {"F32 CDAB", mapping.F32, mapping.CDAB}, {"F32 BADC", mapping.F32, mapping.BADC}, {"F32 DCBA", mapping.F32, mapping.DCBA},
}

// readAllTypes reads a span of registers and prints what each, and each pair,
// can mean.
func readAllTypes(ctx context.Context, a *access, req readRequest, out io.Writer) error {
	cut := strings.LastIndexByte(req.Target, '/')
	unit, err := strconv.ParseUint(req.Target[cut+1:], 10, 8)
	if cut < 0 || err != nil || req.Source == "" {
		return usageError("--all-types reads a span of a unit: gateway read rs485/7 holding:100-120 --all-types")
	}
	if req.Type != "" || req.Order != "" {
		return usageError("--all-types shows all types and orders: name none")
	}
	first, last, err := parseSpan(req.Source)
	if err != nil {
		return err
	}
	if first.Table.Bits() {
		return usageError("--all-types is for registers; a %v is one bit", first.Table)
	}
	w := &words{asker: &asker{bus: req.Target[:cut], read: a.read}, unit: byte(unit), table: first.Table, known: map[int][]byte{}}
	if err := w.ensure(ctx, int(first.Address), last); err != nil {
		return err
	}
	return w.print(out, int(first.Address), last)
}

func (w *words) print(out io.Writer, first, last int) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "REGISTER\tRAW\t")
	for _, c := range allTypes {
		fmt.Fprintf(t, "%s\t", c.head)
	}
	fmt.Fprintln(t, "TEXT\t")
	there := false
	for at := first; at <= last; at++ {
		raw := w.get(at, 1)
		if raw == nil {
			fmt.Fprintf(t, "%v %d\t–\t%s\t\n", w.table, at, strings.Repeat("\t", len(allTypes)))
			continue
		}
		there = true
		fmt.Fprintf(t, "%v %d\t%s\t", w.table, at, registers(raw))
		for _, c := range allTypes {
			fmt.Fprintf(t, "%s\t", w.cell(at, last, c.typ, c.ord))
		}
		fmt.Fprintf(t, "%s\t\n", plainText(raw))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("unit %d refuses all of these registers: it has none of them in this table, or counts them from 1", w.unit)
	}
	return nil
}

// cell is the value from at on as one type, "" if it says nothing new.
func (w *words) cell(at, last int, typ mapping.Type, ord mapping.Order) string {
	n := typ.Registers(0)
	raw := w.get(at, n)
	if raw == nil || at+n-1 > last {
		return ""
	}
	v, ok := numberAs(raw, typ, ord, mapping.Decimal{})
	f, _ := v.Float64()
	if signed := typ == mapping.I16 || typ == mapping.I32; !ok || signed && f >= 0 {
		return "" // the unsigned type says it already
	}
	return v.String()
}
