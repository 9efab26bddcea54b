package mapping

import (
	"fmt"
	"math"
	"time"
)

// Times are texts as RFC 3339 has them, in UTC. A device whose clock tells
// local time needs Point.Zone; of the hour that comes twice in autumn, Schneider's
// summer bit tells which it is, and without one it is taken for the first.

// decodeTime reads a time.
func (p *Point) decodeTime(raw []byte) (Value, error) {
	switch p.Type {
	case YMDHMS:
		return p.fromParts(raw)
	case SchneiderTime:
		return p.fromSchneider(ABCD.pattern(p.ordered(raw)))
	}
	n, err := rawInteger(p, raw)
	if err != nil {
		return Value{}, err
	}
	return p.fromUnix(n)
}

// lastSecond is the last of the year 9999, with which RFC 3339 ends.
const lastSecond = 253402300799

// fromUnix reads seconds or milliseconds since 1970.
func (p *Point) fromUnix(n number) (Value, error) {
	per := uint64(1)
	if p.Type == Unix64ms {
		per = 1000
	}
	if n.neg || n.exp != 0 || n.mant/per > lastSecond {
		return Value{}, errRange
	}
	t := time.Unix(int64(n.mant/per), int64(n.mant%per)*1e6).UTC()
	if p.Zone != nil {
		t = p.local(t, false)
	}
	return timeValue(t), nil
}

func (p *Point) toUnix(v Value) (number, error) {
	t, err := p.clockTime(v)
	if err != nil {
		return number{}, err
	}
	n := number{mant: uint64(t.Unix())}
	if p.Type == Unix64ms {
		n.mant = uint64(t.UnixMilli())
	}
	if t.Unix() < 0 || p.Type == Unix32 && n.mant > math.MaxUint32 {
		return number{}, fmt.Errorf("%s is out of range: %s begins with 1970 and has %d bits", v, p.Type, p.Type.info().bits)
	}
	return n, nil
}

// fromParts reads year (or what is behind 2000), month, day, hour, minute and
// second.
func (p *Point) fromParts(raw []byte) (Value, error) {
	var part [6]int
	for i := range part {
		part[i] = int(p.Order.pattern(raw[2*i : 2*i+2]))
	}
	if part[0] < 100 {
		part[0] += 2000
	}
	return p.fromClock(part[0], part[1], part[2], part[3], part[4], part[5]*1000, false)
}

// fromSchneider reads, from the highest bit on: year in 7 bits of a register;
// month in 4 bits, weekday in 3, day in 5; summer time, 2 bits unused, hour in
// 5, invalid, unused, minute in 6; milliseconds of the minute.
func (p *Point) fromSchneider(n uint64) (Value, error) {
	if n == math.MaxUint64 || n>>16&0x80 != 0 {
		return Value{}, errNoValue
	}
	return p.fromClock(2000+int(n>>48&0x7f), int(n>>40&0x0f), int(n>>32&0x1f), int(n>>24&0x1f), int(n>>16&0x3f), int(n&0xffff), n>>16&0x8000 != 0)
}

// fromClock makes a time of what a clock shows; second is in milliseconds.
func (p *Point) fromClock(year, month, day, hour, minute, ms int, summer bool) (Value, error) {
	t := time.Date(year, time.Month(month), day, hour, minute, ms/1000, ms%1000*1e6, time.UTC)
	same := t.Year() == year && int(t.Month()) == month && t.Day() == day && t.Hour() == hour && t.Minute() == minute && ms < 60000
	if !same || year > 9999 {
		return Value{}, errDate
	}
	if p.Zone != nil {
		t = p.local(t, summer)
	}
	return timeValue(t), nil
}

// local returns when a clock in p.Zone shows what t shows in UTC. Where two
// moments do, it is the one of summer time if summer is said, else the first,
// which is the same.
func (p *Point) local(t time.Time, summer bool) time.Time {
	at := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), p.Zone)
	for _, hours := range []time.Duration{-1, 1} {
		other := at.Add(hours * time.Hour)
		if !sameClock(other, at) {
			continue
		}
		first, second := at, other
		if second.Before(first) {
			first, second = second, first
		}
		if p.Type == SchneiderTime && !summer {
			return second.UTC()
		}
		return first.UTC()
	}
	return at.UTC()
}

func sameClock(a, b time.Time) bool { return a.Format(time.DateTime) == b.Format(time.DateTime) }

func timeValue(t time.Time) Value { return StringValue(t.Format("2006-01-02T15:04:05.999Z07:00")) }

// clockTime returns the time that v is, as the device's clock would show it,
// in UTC.
func (p *Point) clockTime(v Value) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, v.text)
	if v.kind != KindString || err != nil {
		return t, fmt.Errorf("%s is no time like 2026-11-20T23:06:00Z", v)
	}
	if p.Zone == nil {
		return t.UTC(), nil
	}
	t = t.In(p.Zone)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC), nil
}

func (p *Point) encodeTime(dst []byte, v Value) ([]byte, error) {
	if p.Type.Unix() {
		n, err := p.toUnix(v)
		if err != nil {
			return dst, err
		}
		return p.appendInteger(dst, n), nil
	}
	t, err := p.clockTime(v)
	if err != nil {
		return dst, err
	}
	if p.Type == YMDHMS {
		for _, part := range []int{t.Year(), int(t.Month()), t.Day(), t.Hour(), t.Minute(), t.Second()} {
			dst = p.Order.appendPattern(dst, uint64(part), 2)
		}
		return dst, nil
	}
	year := t.Year() - 2000
	if year < 0 || year > 127 {
		return dst, fmt.Errorf("%s is out of range: %s knows 2000 to 2127", v, p.Type)
	}
	n := uint64(year)<<48 | uint64(t.Month())<<40 | uint64(t.Weekday()+1)<<37 | uint64(t.Day())<<32 |
		uint64(t.Hour())<<24 | uint64(t.Minute())<<16 | uint64(t.Second()*1000+t.Nanosecond()/1e6)
	if p.summer(v) {
		n |= 1 << 31
	}
	return p.appendOrdered(dst, ABCD.appendPattern(nil, n, 8)), nil
}

// summer tells whether it is summer time in p's zone at the time v.
func (p *Point) summer(v Value) bool {
	t, err := time.Parse(time.RFC3339, v.text)
	return err == nil && p.Zone != nil && t.In(p.Zone).IsDST()
}
