// Clients of mqtt.js. Each line of standard input is a request, as JSON; each
// is answered by a line with its number, and messages come in between.
'use strict'

const fs = require('fs')
const mqtt = require('mqtt')

const pki = process.argv[2] // the folder of the certificates
const clients = new Map()
const say = (what) => process.stdout.write(JSON.stringify(what) + '\n')

const properties = (m) => ({
  contentType: m.contentType,
  responseTopic: m.responseTopic,
  correlationData: m.correlation && Buffer.from(m.correlation, 'base64'),
  messageExpiryInterval: m.expiry,
  topicAlias: m.alias,
  userProperties: m.user && m.user.reduce((all, [k, v]) => {
    (all[k] = all[k] || []).push(v)
    return all
  }, {})
})

// defined leaves out what is not there: mqtt.js counts it as there.
const defined = (o) => Object.fromEntries(Object.entries(o).filter(([, v]) => v !== undefined))

const user = (all) => all && Object.entries(all).flatMap(([k, v]) => [v].flat().map((v) => [k, v]))

const arrived = (topic, payload, packet) => {
  const p = packet.properties || {}
  return {
    topic,
    payload: payload.toString('base64'),
    qos: packet.qos,
    retain: packet.retain,
    contentType: p.contentType,
    responseTopic: p.responseTopic,
    correlation: p.correlationData && p.correlationData.toString('base64'),
    expiry: p.messageExpiryInterval,
    user: user(p.userProperties),
    alias: p.topicAlias,
    subscription: p.subscriptionIdentifier
  }
}

const connect = (r, answer) => {
  const o = r.options
  const v5 = r.version === 5
  const unix = o.url.startsWith('unix://')
  const options = defined({
    protocolVersion: r.version,
    clientId: o.id,
    clean: !o.session,
    username: o.user,
    password: o.password,
    ca: fs.readFileSync(`${pki}/ca.crt`),
    cert: o.certificate ? fs.readFileSync(`${pki}/panel.crt`) : undefined,
    key: o.certificate ? fs.readFileSync(`${pki}/panel.key`) : undefined,
    reconnectPeriod: o.again ? 20 : 0,
    properties: v5 ? defined({ sessionExpiryInterval: o.session ? 3600 : 0, topicAliasMaximum: o.aliases }) : undefined,
    path: unix ? o.url.slice('unix://'.length) : undefined,
    will: o.will && defined({
      topic: o.will.topic,
      payload: Buffer.from(o.will.payload, 'base64'),
      qos: o.will.qos,
      retain: o.will.retain || false,
      properties: v5 ? defined(properties(o.will)) : undefined
    })
  })
  const c = mqtt.connect(unix ? 'mqtt+unix://' : o.url.replace(/^tls:/, 'mqtts:'), options)
  clients.set(r.client, c)
  c.on('message', (topic, payload, packet) => say({ client: r.client, message: arrived(topic, payload, packet) }))
  c.once('connect', (ack) => answer({ present: ack.sessionPresent }))
  c.once('close', () => answer({ error: 'closed' }))
  c.on('error', (err) => answer({ error: err.message, reason: typeof err.code === 'number' ? err.code : 0 }))
}

const publish = (r, answer) => {
  const c = clients.get(r.client)
  const reasons = []
  let open = r.messages.length
  r.messages.forEach((m, i) => {
    const options = { qos: m.qos, retain: m.retain || false }
    if (r.version === 5) options.properties = defined(properties(m))
    c.publish(m.topic, Buffer.from(m.payload || '', 'base64'), options, (err) => {
      reasons[i] = (err && err.code) || 0
      if (err && typeof err.code !== 'number') return answer({ error: err.message })
      if (--open === 0) answer({ reasons })
    })
  })
}

const subscribe = (r, answer) => {
  const s = r.subscription
  const options = { qos: s.qos }
  if (s.id) options.properties = { subscriptionIdentifier: s.id }
  clients.get(r.client).subscribe(s.filter, options, (err, granted, packet) => {
    if (!packet) return answer({ error: err ? err.message : 'no SUBACK' })
    answer({ reason: packet.granted[0] })
  })
}

const disconnect = (r, answer) => {
  clients.get(r.client).end(false, {}, () => answer({}))
  clients.delete(r.client)
}

require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const r = JSON.parse(line)
  let answered = false
  const answer = (a) => {
    if (!answered) say({ request: r.request, ...a })
    answered = true
  }
  ;({ connect, publish, subscribe, disconnect })[r.do](r, answer)
})
