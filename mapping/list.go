package mapping

import (
	"errors"
	"fmt"
)

// errListWrite is why a list is not written.
var errListWrite = errors.New("a list can only be read")

// decodeList reads any number of values of p's type, one after the other. One
// that means nothing is null in the list.
func decodeList(p *Point, raw []byte) (Value, error) {
	one := *p
	one.List = false
	size := one.RawLen()
	if size == 0 || len(raw)%size != 0 {
		return Value{}, &Invalid{Reason: fmt.Sprintf("%d bytes are no list of %s", len(raw), p.Type)}
	}
	text := []byte{'['}
	for i := 0; i < len(raw); i += size {
		if i > 0 {
			text = append(text, ',')
		}
		v, err := Decode(&one, raw[i:i+size])
		if err != nil {
			v = Value{}
		}
		text = v.AppendJSON(text)
	}
	return Value{kind: KindList, text: string(append(text, ']'))}, nil
}
