package packet

import (
	"bytes"
	"fmt"
	"testing"
)

// eachPublish runs fn with a PUBLISH of 200 bytes for each version and QoS.
func eachPublish(b *testing.B, fn func(b *testing.B, v Version, p *Publish)) {
	for _, v := range []Version{V311, V5} {
		for qos := range byte(2) {
			p := &Publish{QoS: qos, ID: uint16(qos), Topic: "plant/meter/power", Payload: bytes.Repeat([]byte("x"), 200)}
			if v == V5 {
				p.Props = Properties{{ID: MessageExpiry, Num: 60}, {ID: ContentType, Text: "application/json"}}
			}
			b.Run(fmt.Sprintf("version=%v/qos=%d", v, qos), func(b *testing.B) {
				b.ReportAllocs()
				fn(b, v, p)
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	eachPublish(b, func(b *testing.B, v Version, p *Publish) {
		raw, _ := p.Append(nil, v)
		r := Reader{Src: NewBuffer(&repeat{b: raw}), Version: v, Reuse: true}
		for b.Loop() {
			r.Read()
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	eachPublish(b, func(b *testing.B, v Version, p *Publish) {
		buf := make([]byte, 0, 1024)
		for b.Loop() {
			p.Append(buf, v)
		}
	})
}
