package simulator

import (
	"bytes"
	"context"
	"time"

	"edgegateway/devices"
	"edgegateway/devices/serial"
)

const (
	meterSays  = "/SIM5gateway"         // who it is, and that it offers 9600 baud
	meterWaits = 200 * time.Millisecond // before it answers: what a small third letter would shorten
	meterHolds = 3 * time.Second        // until it is told to go on
)

// readout makes the data message of a meter (IEC 62056-21, 6.3.4).
func (t *talker) readout() []byte {
	b := bytes.NewBufferString("\x02")
	t.obisLines(b)
	b.WriteString("!\r\n\x03")
	return serial.Sum{Kind: "xor"}.Append(b.Bytes(), b.Bytes()[1:], false)
}

// answerCalls plays a meter of mode C. A stream whose speed can be changed
// changes it as the caller wants.
func (b *bus) answerCalls(ctx context.Context, m serial.Meter, port serial.Stream) error {
	heard := ear{port: port}
	for {
		ok, err := heard.wait(ctx, func(in []byte) int { return callIn(in, m) })
		if err != nil || !ok {
			return err
		}
		if err := b.answerCall(ctx, &heard); err != nil {
			return err
		}
		if err := setBaud(port, b.Baud); err != nil {
			return err
		}
	}
}

// callIn finds the end of a call in what was heard: to whoever is there, or to
// the meter's own address. One that sleeps hears it only behind NULs.
func callIn(in []byte, m serial.Meter) int {
	for _, call := range [][]byte{m.Request(), serial.Meter{}.Request()} {
		at := bytes.Index(in, call)
		if at >= 0 && (!m.Wake || bytes.Count(in[:at], []byte{0}) >= 20) {
			return at + len(call)
		}
	}
	return 0
}

func (b *bus) answerCall(ctx context.Context, heard *ear) error {
	if len(b.talkers) == 0 || !devices.Sleep(ctx, meterWaits) {
		return nil
	}
	message, delay := b.talkers[0].say()
	if message == nil || !devices.Sleep(ctx, delay) {
		return nil
	}
	if err := write(heard.port, []byte(meterSays+"\r\n")); err != nil {
		return err
	}
	var option []byte
	holds, cancel := context.WithTimeout(ctx, meterHolds)
	defer cancel()
	ok, err := heard.wait(holds, func(in []byte) int {
		at := bytes.IndexByte(in, 0x06)
		if at < 0 || len(in) < at+6 {
			return 0
		}
		option = bytes.Clone(in[at : at+6])
		return at + 6
	})
	if err != nil || !ok || option[1] != '0' || option[3] != '0' {
		return err
	}
	// The caller changes its speed after the last bit, and this before the
	// first of the answer.
	if !devices.Sleep(ctx, meterWaits) {
		return nil
	}
	if option[2] != '0' {
		id, _ := serial.ParseIdentification([]byte(meterSays))
		id.Speed = option[2]
		if baud, _, _ := id.Offer(); baud != 0 {
			if err := setBaud(heard.port, baud); err != nil {
				return err
			}
		}
	}
	return write(heard.port, message)
}

// write returns when the last bit has left, where that can be told.
func write(port serial.Stream, b []byte) error {
	if _, err := port.Write(b); err != nil {
		return err
	}
	if p, ok := port.(*serial.Port); ok {
		return p.Drain(len(b))
	}
	return nil
}

func setBaud(port serial.Stream, baud int) error {
	p, ok := port.(*serial.Port)
	if !ok || baud == 0 || p.Baud() == baud {
		return nil
	}
	return p.SetBaud(baud)
}
