package com.example;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelFutureListener;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.EventLoopGroup;
import io.netty.channel.MultiThreadIoEventLoopGroup;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioIoHandler;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import javax.sql.DataSource;

/** Netty without a framework: the periodic task is one of an event loop, and the pool is HikariCP's. */
public class Application extends SimpleChannelInboundHandler<FullHttpRequest> {

    private static final Ticks TICKS = new Ticks(100);
    private static final ExecutorService WORKERS = Executors.newFixedThreadPool(2);
    private static DataSource pool;

    public static void main(String[] arguments) throws InterruptedException {
        HikariConfig settings = new HikariConfig();
        settings.setJdbcUrl(System.getenv("DB_URL"));
        settings.setUsername(System.getenv("DB_USER"));
        settings.setPassword(System.getenv("DB_PASSWORD"));
        settings.setMaximumPoolSize(3);
        pool = new HikariDataSource(settings);
        EventLoopGroup loops = new MultiThreadIoEventLoopGroup(2, NioIoHandler.newFactory());
        loops.next().scheduleAtFixedRate(TICKS::tick, 0, 100, TimeUnit.MILLISECONDS);
        ChannelInitializer<SocketChannel> channel = new ChannelInitializer<>() {
            @Override
            protected void initChannel(SocketChannel connection) {
                connection.pipeline()
                        .addLast(new HttpServerCodec(), new HttpObjectAggregator(65536), new Application());
            }
        };
        new ServerBootstrap().group(loops).channel(NioServerSocketChannel.class).childHandler(channel)
                .bind(8080).sync().channel().closeFuture().sync();
    }

    @Override
    protected void channelRead0(ChannelHandlerContext connection, FullHttpRequest request) {
        WORKERS.execute(() -> connection.writeAndFlush(answer()).addListener(ChannelFutureListener.CLOSE));
    }

    private static FullHttpResponse answer() {
        byte[] body = Visit.answer(pool, TICKS).getBytes(StandardCharsets.UTF_8);
        FullHttpResponse response = new DefaultFullHttpResponse(
                HttpVersion.HTTP_1_1, HttpResponseStatus.OK, Unpooled.wrappedBuffer(body));
        response.headers().set("Content-Length", body.length).set("Connection", "close");
        return response;
    }
}
