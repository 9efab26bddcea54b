package mapping

import "fmt"

// A Range is from Min to Max, both included; nil is no limit.
type Range struct{ Min, Max *Decimal }

// has reports whether v lies within r. Values that are no quantity do. Limits
// are rounded as the value is, so that the float nearest to 230.1 lies within
// a limit of 230.1.
func (r *Range) has(v Value) bool {
	if !v.quantity() {
		return true
	}
	f, _ := v.Float64()
	return (r.Min == nil || f >= v.like(*r.Min)) && (r.Max == nil || f <= v.like(*r.Max))
}

// like returns d in the precision of v.
func (v Value) like(d Decimal) float64 {
	f := d.number().float()
	if v.kind == KindFloat32 {
		return float64(float32(f))
	}
	return f
}

// outside says that v is not within r, and what it is.
func (r *Range) outside(v Value, unit string) error {
	e := *errRange
	e.Detail = fmt.Sprintf("%s is not within %s", withUnitText(v.String(), unit), r)
	return &e
}

func (r *Range) String() string {
	from, to := "-inf", "inf"
	if r.Min != nil {
		from = r.Min.String()
	}
	if r.Max != nil {
		to = r.Max.String()
	}
	return fmt.Sprintf("[%s, %s]", from, to)
}

// within returns v, found with err, or that it is out of p's range.
func (p *Point) within(v Value, err error) (Value, error) {
	if p.Range != nil && err == nil && !p.Range.has(v) {
		return Value{}, p.Range.outside(v, p.Unit)
	}
	return v, err
}
